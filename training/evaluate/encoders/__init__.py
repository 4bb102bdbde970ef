"""Judges encoders: retrieval across sensors, neighbours, linear probes, fine-tuning, segmentation, and the ablation."""
