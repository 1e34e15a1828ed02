"""Faults as a product: kill points, a fault proxy, seeded schedules, a checker of histories. See docs/guides/faults.md."""
