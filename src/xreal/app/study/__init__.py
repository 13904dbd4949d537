"""A blinded reader study: real and generated X-rays, a link for each reader, answers in one SQLite file, a report."""
