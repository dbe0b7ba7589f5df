"""Tables of others' papers as comparisons that run with one line: data, settings, and what they take."""
