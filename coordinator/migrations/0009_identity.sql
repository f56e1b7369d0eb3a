-- Whose hands an API key is in, and which tokens are good.

-- The hash of the last API key that was handed to a member who may replace the organization's public key. While it is
-- the one in use, the node may replace that key too. A hash and no flag, because releases before this one know only of
-- the other column when they make a new key.
ALTER TABLE node ADD COLUMN member_key_hash TEXT;

-- Access tokens from before are good no more, unless they are of the family of refresh tokens that was spared.
ALTER TABLE authenticatable ADD COLUMN tokens_valid_from BIGINT;
ALTER TABLE authenticatable ADD COLUMN tokens_spared_family TEXT;
