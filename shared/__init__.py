"""The chassis every service stands on. It holds no business word and knows no service by name."""
