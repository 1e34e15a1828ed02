"""What another limit would do: usage of the past replayed against a policy that nobody has saved."""
