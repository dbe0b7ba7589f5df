"""Training scripts and demonstrations of mona_peft; run them from the root of the repository."""
