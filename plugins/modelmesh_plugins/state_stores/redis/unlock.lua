-- Give a lock back, if it is still this holder's. KEYS: the lock. ARGV: fence.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
