"""Builds a data set from a published corpus in resumable stages."""
