"""A night: plan the least work, bring what is derived up to date, audit the result. The job embeds and publishes."""
