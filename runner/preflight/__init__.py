"""Preflight: what is known before the first step - estimates of memory and time, checks of samples, previews."""
