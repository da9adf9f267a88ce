-- Whole numbers of any size. Lua's own are exact to 2^53 only, which a daily allowance of tokens, counted in
-- microseconds, passes. What fits is a plain number; what does not is a table of limbs, lowest first, with a sign.

local BASE, DIGITS, SAFE = 10000000, 7, 9007199254740992
local floor, format, sub = math.floor, string.format, string.sub

local function limbs(x)
  if type(x) == 'table' then return x end
  local wide, rest = {negative = x < 0}, math.abs(x)
  while rest > 0 do
    local limb = rest % BASE
    wide[#wide + 1] = limb
    rest = (rest - limb) / BASE
  end
  return wide
end

local function narrow(wide)
  while #wide > 0 and wide[#wide] == 0 do wide[#wide] = nil end
  if #wide > 3 or (#wide == 3 and wide[3] >= 90) then return wide end
  local x = (wide[1] or 0) + (wide[2] or 0) * BASE + (wide[3] or 0) * BASE * BASE
  return wide.negative and -x or x
end

local function parse(text)
  if #text <= 15 then return tonumber(text) end
  local wide, first = {negative = sub(text, 1, 1) == '-'}, 1
  if wide.negative then first = 2 end
  for last = #text, first, -DIGITS do
    wide[#wide + 1] = tonumber(sub(text, math.max(first, last - DIGITS + 1), last))
  end
  return narrow(wide)
end

local function show(x)
  if x == 0 then return '0' end
  if type(x) == 'number' then return format('%.0f', x) end
  local parts = {x.negative and '-' or '', format('%d', x[#x])}
  for place = #x - 1, 1, -1 do parts[#parts + 1] = format('%07d', x[place]) end
  return table.concat(parts)
end

local function larger(a, b) -- of two tables, without signs: 1, 0, -1
  if #a ~= #b then return #a > #b and 1 or -1 end
  for place = #a, 1, -1 do
    if a[place] ~= b[place] then return a[place] > b[place] and 1 or -1 end
  end
  return 0
end

local function negated(x)
  if type(x) == 'number' then return -x end
  local other = {unpack(x)}
  other.negative = not x.negative
  return other
end

local function add(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    local sum = a + b
    if sum > -SAFE and sum < SAFE then return sum end
  end
  a, b = limbs(a), limbs(b)
  local sum, carry = {negative = a.negative}, 0
  if a.negative == b.negative then
    for place = 1, math.max(#a, #b) do
      local limb = (a[place] or 0) + (b[place] or 0) + carry
      carry = limb >= BASE and 1 or 0
      sum[place] = limb - carry * BASE
    end
    if carry > 0 then sum[#sum + 1] = carry end
    return narrow(sum)
  end
  if larger(a, b) < 0 then a, b = b, a end
  sum.negative = a.negative
  for place = 1, #a do
    local limb = a[place] - (b[place] or 0) - carry
    carry = limb < 0 and 1 or 0
    sum[place] = limb + carry * BASE
  end
  return narrow(sum)
end

local function minus(a, b) return add(a, negated(b)) end

local function compare(a, b) -- 1, 0, -1
  if type(a) == 'number' and type(b) == 'number' then return a > b and 1 or (a < b and -1 or 0) end
  a, b = limbs(a), limbs(b)
  if a.negative ~= b.negative then return a.negative and -1 or 1 end
  return a.negative and larger(b, a) or larger(a, b)
end

local function most(a, b) return compare(a, b) >= 0 and a or b end
local function least(a, b) return compare(a, b) <= 0 and a or b end

local function times(a, b)
  if type(a) == 'number' and type(b) == 'number' then
    local product = a * b
    if product > -SAFE and product < SAFE then return product end
  end
  a, b = limbs(a), limbs(b)
  local product = {negative = a.negative ~= b.negative}
  for place = 1, #a + #b do product[place] = 0 end
  for i = 1, #a do
    local carry = 0
    for j = 1, #b do
      local limb = product[i + j - 1] + a[i] * b[j] + carry
      carry = floor(limb / BASE)
      product[i + j - 1] = limb - carry * BASE
    end
    product[i + #b] = product[i + #b] + carry
  end
  return narrow(product)
end

local function size(x) -- about, as a plain number
  if type(x) == 'number' then return x end
  local about = 0
  for place = #x, 1, -1 do about = about * BASE + x[place] end
  return about
end

local function over(a, b) -- a / b rounded down; a not negative, b positive
  if type(a) == 'number' and type(b) == 'number' then
    local quotient = floor(a / b)
    -- The division was rounded; the product back is exact.
    if quotient * b > a then quotient = quotient - 1 end
    return quotient
  end
  local digits, quotient, rest = limbs(a), {negative = false}, 0
  for place = #digits, 1, -1 do
    rest = add(times(rest, BASE), digits[place])
    local digit = math.min(floor(size(rest) / size(b)), BASE - 1)
    local left = minus(rest, times(b, digit))
    while compare(left, 0) < 0 do digit, left = digit - 1, add(left, b) end
    while compare(left, b) >= 0 do digit, left = digit + 1, minus(left, b) end
    quotient[place], rest = digit, left
  end
  return narrow(quotient)
end

local function over_up(a, b) return over(add(a, minus(b, 1)), b) end
