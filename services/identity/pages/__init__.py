"""The pages that links in mails lead to, and in development the mailbox itself. Plain HTML without scripts."""
