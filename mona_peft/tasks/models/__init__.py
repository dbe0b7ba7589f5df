"""Models for a task, their image processors, and the methods that adapt them."""
