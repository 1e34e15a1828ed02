"""The CRM: contacts, companies, deals with pipelines and stages, and activities.

I own: the schema ``crm``. Every record belongs to one organisation and has an owner, tags and custom
fields whose types the organisation defines.
I publish: ``guardian.crm.events`` (``contact.created``, ``deal.stage_changed``, …; see ``events.py``).
I consume: nothing.
Who may call me: the gateway.
"""
