"""What is trained on top of a frozen base model: interventions, LoRA, and a toy."""
