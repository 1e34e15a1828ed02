"""Activities: calls, mails, meetings, notes and tasks around contacts, companies and deals."""
