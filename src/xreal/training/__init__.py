"""One loop, and per network one stage: its data, its loss, its validation, its export."""
