-- Where a mail goes if not to the address that its user has when it is sent: to the one they had before.
ALTER TABLE outbox ADD COLUMN address TEXT;
