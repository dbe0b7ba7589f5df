"""A fair comparison of ways to fine-tune: what is compared, how it is run, and the tables and plots made of it."""
