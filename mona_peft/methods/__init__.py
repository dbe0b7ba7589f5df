"""The methods that Mona is compared with, as PEFT tuners: those that PEFT itself has not.

Each is one file on the mechanism that hosts Mona too (`host/` and `integration/`), but for BitFit, which
trains what is there.
"""
