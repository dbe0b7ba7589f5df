"""The embedded default: photographs, printed symbols, handwritten digits, and a small backbone that knows symbols."""
