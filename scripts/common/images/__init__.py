"""The names that these modules had before the tasks moved into the package."""
