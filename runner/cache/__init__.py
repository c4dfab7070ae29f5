"""What trials share: trained models, answers and whatever else is known by a key of what made it."""
