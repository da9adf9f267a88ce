-- Take a lock nobody holds. KEYS: the lock, the last fence given. ARGV: milliseconds. Returns the fence: the server's
-- time in microseconds, so that it is larger than all before even where the server lost what it had.
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local fence = string.format('%.0f', math.max(clock(), tonumber(redis.call('GET', KEYS[2]) or '0') + 1))
redis.call('SET', KEYS[2], fence)
redis.call('SET', KEYS[1], fence, 'PX', ARGV[1])
return fence
