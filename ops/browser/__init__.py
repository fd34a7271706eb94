"""The customer's pages in a real browser: the distribution's Chromium, headless, driven by Playwright."""
