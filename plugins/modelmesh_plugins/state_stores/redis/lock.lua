-- Take a lock nobody holds. KEYS: the lock, the last fence given. ARGV: milliseconds. Returns the fence.
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local fence = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], fence, 'PX', ARGV[1])
return fence
