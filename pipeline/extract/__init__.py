"""Scenarios to stores, in parallel and resumable; stores merged, split and described."""
