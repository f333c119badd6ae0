"""Fine-tuning of networks by plan; everything here needs torch."""
