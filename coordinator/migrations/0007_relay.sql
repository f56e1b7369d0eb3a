-- Where the meeting point of each coordinator is, as JSON; null for one that runs none.
ALTER TABLE instance ADD COLUMN relay TEXT;
