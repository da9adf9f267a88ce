-- Remove a record. KEYS: the record, the index of keys. ARGV: key.
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
