"""Usage by key, user, route and class: kept by minute for 35 days, asked for, and published."""
