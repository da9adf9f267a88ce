-- Write a record, if its version is the expected one.
-- KEYS: the record, the index of keys. ARGV: key, data, expected version or ''. Returns version and microseconds.
local held = redis.call('HMGET', KEYS[1], 'version', 'at')
local version = tonumber(held[1] or '0')
if ARGV[3] ~= '' and tonumber(ARGV[3]) ~= version then return false end
local at = math.max(clock(), tonumber(held[2] or '0'))
redis.call('HSET', KEYS[1], 'data', ARGV[2], 'version', version + 1, 'at', string.format('%.0f', at))
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return {version + 1, string.format('%.0f', at)}
