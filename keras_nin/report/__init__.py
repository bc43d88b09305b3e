"""Text from records: pure functions, no measuring."""
