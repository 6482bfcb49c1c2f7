"""Representation fine-tuning: interventions on hidden states."""
