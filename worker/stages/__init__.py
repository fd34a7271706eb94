"""The job, top to bottom: sweep, fetch, deliver, verify."""
