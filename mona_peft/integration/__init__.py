"""PEFT and transformers: how adapters are attached, trained, saved, loaded and presented."""
