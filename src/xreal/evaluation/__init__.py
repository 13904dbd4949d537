"""Numbers that say whether masks are obeyed."""
