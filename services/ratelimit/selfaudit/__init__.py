"""The limiter watched by itself: what was admitted in windows that ended, beside what they allowed."""
