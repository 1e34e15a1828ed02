"""What contacts, companies, deals and activities have in common: storage, lists, search, changes."""
