"""What a run tells: metrics, events, the console."""
