"""What Mona costs beside other ways of fine-tuning: time, memory, and where both go."""
