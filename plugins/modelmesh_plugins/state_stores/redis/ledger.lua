-- The books of limits: what modelmesh_cdk.ledger.Books does, step by step, on keys instead of dictionaries.
--
-- KEYS: the leases' sorted set, the keys of the call's own reservation and accounts.
-- ARGV: operation, prefix of all keys, reservation, then what the operation needs.
--
-- Keys under the prefix: w:<account> a window, q:<account> a rate, r:<reservation> an open reservation, leases when each
-- ends. All have one hash tag, so those that ended leases name, which KEYS cannot, are in the same slot.

local operation, prefix, reservation = ARGV[1], ARGV[2], ARGV[3]
local leases = KEYS[1]
local match = string.match
local FOREVER = 1e13 -- milliseconds, three centuries: more than that overflows a key's expiry
local LINGER = 60000 -- milliseconds that keys outlast what they are needed for
local ENDED_AT_ONCE = 200 -- leases ended by one call; the rest waits for the next, counted as reserved until then

local function milliseconds(microseconds)
  local px = over(most(microseconds, 0), 1000)
  if type(px) == 'table' then return FOREVER end
  return math.min(px + LINGER, FOREVER)
end

local function put(key, text, until_, moment)
  redis.call('SET', key, text, 'PX', format('%.0f', milliseconds(minus(until_, moment))))
end

local function read_window(text)
  local spent, reserved, keep, forget_at, needed = match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {
    spent = parse(spent), reserved = parse(reserved), keep = parse(keep), forget_at = parse(forget_at),
    needed = parse(needed), -- when the last lease on it has ended and is forgotten: the key lives until then
  }
end

local function get_window(account)
  local text = redis.call('GET', prefix .. 'w:' .. account)
  return text and read_window(text)
end

local function put_window(account, window, moment)
  local text = table.concat({
    show(window.spent), show(window.reserved), show(window.keep), show(window.forget_at), show(window.needed)
  }, ' ')
  put(prefix .. 'w:' .. account, text, most(window.forget_at, window.needed), moment)
end

local function is_forgotten(window, moment)
  return compare(window.forget_at, moment) <= 0 and compare(window.reserved, 0) == 0
end

local function get_rate(account)
  local text = redis.call('GET', prefix .. 'q:' .. account)
  if not text then return nil end
  local debt, at, limit, period = match(text, '^(%S+) (%S+) (%S+) (%S+)$')
  return {debt = parse(debt), at = parse(at), limit = parse(limit), period = parse(period)}
end

local function put_rate(account, rate, moment)
  local text = table.concat({show(rate.debt), show(rate.at), show(rate.limit), show(rate.period)}, ' ')
  put(prefix .. 'q:' .. account, text, add(rate.at, over_up(rate.debt, rate.limit)), moment)
end

local function owed(rate, moment, limit, period)
  local debt = rate.debt
  if compare(period, rate.period) ~= 0 then debt = over_up(times(debt, period), rate.period) end
  local passed = minus(moment, rate.at)
  if compare(passed, 0) > 0 then return most(0, minus(debt, times(passed, limit))) end
  return debt
end

local function settle_window(account, amount, actual, moment, now, is_over)
  local window = get_window(account)
  if not window then return end -- its time was over, and so its key's
  if is_over and compare(window.keep, 0) == 0 then actual = 0 end -- a place: it returns with its lease
  window.reserved = minus(window.reserved, amount)
  window.spent = add(window.spent, actual)
  window.forget_at = most(window.forget_at, add(moment, window.keep))
  put_window(account, window, now)
end

local function settle_rate(account, amount, actual, limit, period, drained_at, moment, now)
  if compare(actual, amount) == 0 then return end
  local rate = get_rate(account) or {debt = 0, at = moment, limit = limit, period = period}
  local debt = owed(rate, moment, rate.limit, rate.period)
  if compare(actual, amount) > 0 then
    debt = add(debt, over(times(times(minus(actual, amount), period), rate.period), period))
  else
    local back = times(minus(amount, actual), period)
    back = least(back, times(most(0, minus(drained_at, moment)), limit))
    debt = most(0, minus(debt, over_up(times(back, rate.period), period)))
  end
  rate.debt, rate.at = debt, moment
  put_rate(account, rate, now)
end

local function settle_line(line, actual, moment, now, is_over)
  local account, amount, limit = line[1], parse(line[2]), parse(line[3])
  if limit == 0 then
    settle_window(account, amount, actual or amount, moment, now, is_over)
  else
    settle_rate(account, amount, actual or amount, limit, parse(line[4]), parse(line[5]), moment, now)
  end
end

-- A reservation is {end of its lease, '1' if that counts as spent, line, line, ...}.
local function close(id)
  redis.call('ZREM', leases, id)
  redis.call('DEL', prefix .. 'r:' .. id)
end

local function end_lease(id, held, now) -- as of the lease's end: it matters not who noticed how late
  close(id)
  local ends_at = parse(held[1])
  for place = 3, #held do
    local line = held[place]
    settle_line(line, held[2] == '1' and parse(line[2]) or 0, ends_at, now, true)
  end
end

local function open_reservation(id, now)
  local text = redis.call('GET', prefix .. 'r:' .. id)
  if not text then return nil end
  local held = cmsgpack.unpack(text)
  if compare(parse(held[1]), now) > 0 then return held end
  end_lease(id, held, now)
  return nil
end

local function catch_up(now)
  local ended = redis.call('ZRANGEBYSCORE', leases, '-inf', show(now), 'LIMIT', 0, ENDED_AT_ONCE)
  for _, id in ipairs(ended) do
    local text = redis.call('GET', prefix .. 'r:' .. id)
    if text then end_lease(id, cmsgpack.unpack(text), now) else redis.call('ZREM', leases, id) end
  end
end

local function reserve(now)
  local lease, dispatched = parse(ARGV[4]), ARGV[5]
  if open_reservation(reservation, now) then return {1} end
  local taken = {}
  for place = 6, #ARGV, 6 do
    local kind, account, amount = ARGV[place], ARGV[place + 1], parse(ARGV[place + 2])
    local limit = parse(ARGV[place + 3])
    if kind == 'w' then
      local window, held = get_window(account), 0
      if window and not is_forgotten(window, now) then held = add(window.spent, window.reserved) end
      if compare(add(held, amount), limit) > 0 then return {0, account, show(most(0, minus(limit, held))), ''} end
      taken[#taken + 1] = {kind, account, amount, window, held, parse(ARGV[place + 4])}
    else
      local period, burst = parse(ARGV[place + 4]), parse(ARGV[place + 5])
      local rate, debt = get_rate(account), 0
      if rate then
        debt = owed(rate, now, limit, period)
        if compare(rate.at, now) > 0 then -- a clock that was put back: counting goes on from its new time
          rate.at = now
          put_rate(account, rate, now)
        end
      end
      local excess = add(debt, times(minus(amount, burst), period))
      if compare(excess, 0) > 0 then
        local left, wait = minus(times(burst, period), debt), ''
        if compare(amount, burst) <= 0 then wait = show(over_up(excess, limit)) end
        left = compare(left, 0) > 0 and over(left, period) or 0
        return {0, account, show(left), wait}
      end
      taken[#taken + 1] = {kind, account, amount, limit, debt, period}
    end
  end

  local ends_at = add(now, lease)
  local held, needed = {show(ends_at), dispatched}, ends_at
  for _, claim in ipairs(taken) do
    local kind, account, amount = claim[1], claim[2], claim[3]
    if kind == 'w' then
      local window, keep = claim[4], claim[6]
      if not window then
        window = {spent = 0, reserved = 0, forget_at = 0, needed = 0}
      elseif compare(claim[5], 0) == 0 then
        window.spent = 0 -- it may be one that was to be forgotten
      end
      window.reserved = add(window.reserved, amount)
      window.keep = keep
      window.forget_at = most(window.forget_at, add(now, keep))
      window.needed = most(window.needed, add(ends_at, keep))
      needed = most(needed, window.needed)
      put_window(account, window, now)
      held[#held + 1] = {account, show(amount), '0', '0', '0'}
    else
      local limit, period = claim[4], claim[6]
      local debt = add(claim[5], times(amount, period))
      put_rate(account, {debt = debt, at = now, limit = limit, period = period}, now)
      held[#held + 1] = {account, show(amount), show(limit), show(period), show(add(now, over_up(debt, limit)))}
    end
  end
  put(prefix .. 'r:' .. reservation, cmsgpack.pack(held), needed, now)
  redis.call('ZADD', leases, type(ends_at) == 'number' and show(ends_at) or '+inf', reservation)
  return {1}
end

local function settle(now, released)
  local held = open_reservation(reservation, now)
  if not held then return 0 end
  close(reservation)
  local actual = {}
  for place = 4, #ARGV, 2 do actual[ARGV[place]] = parse(ARGV[place + 1]) end
  for place = 3, #held do
    local line = held[place]
    settle_line(line, released and 0 or actual[line[1]], now, now)
  end
  return 1
end

local function balances(now)
  local found = {}
  for place = 4, #ARGV do
    local window = get_window(ARGV[place])
    local known = window and not is_forgotten(window, now)
    found[#found + 1] = known and show(window.spent) or '0'
    found[#found + 1] = known and show(window.reserved) or '0'
  end
  return found
end

local now = clock()
catch_up(now)
if operation == 'reserve' then return reserve(now) end
if operation == 'settle' then return settle(now, false) end
if operation == 'release' then return settle(now, true) end
return balances(now)
