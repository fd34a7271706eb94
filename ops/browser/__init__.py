"""The customer's pages in a real browser: a headless Chromium of the distribution, driven by Playwright."""
