"""The limits in effect: what each subject has used of its present window, and what is left."""
