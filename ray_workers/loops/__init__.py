"""Reference training loops on real data."""
