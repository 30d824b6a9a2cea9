-- Numbers of 64 bits, and the checksum, in any Lua: 5.2 has doubles only, 5.4 has integers that overflow.
-- The laws: no bit operators and no bit library; a number that may exceed 2^53 is a table
-- {neg = boolean, hi = , lo = }, the two halves of its two's complement; every sum is of floats below 2^53.

local Numbers = {}

do
  local floor, format = math.floor, string.format
  local TWO32 = 4294967296.0

  -- The number in `size` bytes (1 to 8) of `s` from index `i`.
  function Numbers.read(s, i, size, little, signed)
    local hi, lo = 0, 0
    if not signed then -- most numbers, quickly
      if size == 1 then return { neg = false, hi = 0, lo = s:byte(i) } end
      if size == 2 then
        local a, b = s:byte(i, i + 1)
        return { neg = false, hi = 0, lo = little and b * 256 + a or a * 256 + b }
      end
      if size == 4 then
        local a, b, c, d = s:byte(i, i + 3)
        if little then a, b, c, d = d, c, b, a end
        return { neg = false, hi = 0, lo = ((a * 256 + b) * 256 + c) * 256 + d }
      end
    end
    local first, last, step = i, i + size - 1, 1
    if little then first, last, step = last, first, -1 end
    local left = size
    for at = first, last, step do
      local byte = s:byte(at)
      if left > 4 then hi = hi * 256 + byte else lo = lo * 256 + byte end
      left = left - 1
    end
    local neg = false
    if signed then
      local top = s:byte(first) >= 128
      if top then
        neg = true
        if size < 4 then lo = lo + TWO32 - 256.0 ^ size end
        if size <= 4 then hi = TWO32 - 1 elseif size < 8 then hi = hi + TWO32 - 256.0 ^ (size - 4) end
      end
    end
    return { neg = neg, hi = hi, lo = lo }
  end

  -- The number -1 - n of CBOR's negative integers; nil where it has no 64 bits.
  function Numbers.minus_one_less(n)
    if n.hi >= 2147483648 then return nil end
    return { neg = true, hi = TWO32 - 1 - n.hi, lo = TWO32 - 1 - n.lo }
  end

  -- A text that is the same for equal numbers only.
  function Numbers.key(n)
    return format(n.neg and "-%08x%08x" or "%08x%08x", n.hi, n.lo)
  end

  -- What is below 2^53 and not negative as a plain Lua number, else nil.
  function Numbers.plain(n)
    if n.neg or n.hi >= 2097152 then return nil end
    return floor(n.hi * TWO32 + n.lo) -- an integer where Lua has them
  end

  -- Whether a is less than b.
  function Numbers.less(a, b)
    if a.neg ~= b.neg then return a.neg end
    if a.hi ~= b.hi then return a.hi < b.hi end
    return a.lo < b.lo
  end

  -- a - b of numbers that are not negative, where it is small; exact below 2^53.
  function Numbers.distance(a, b)
    return floor((a.hi - b.hi) * TWO32 + (a.lo - b.lo))
  end

  local function magnitude(n)
    if not n.neg then return n.hi, n.lo end
    local lo = (TWO32 - n.lo) % TWO32
    local hi = (TWO32 - 1 - n.hi + (n.lo == 0 and 1 or 0)) % TWO32
    return hi, lo
  end

  -- Quotient and rest of an unsigned number of two halves by `by`, at most 2^32; the quotient is below 2^53
  -- where `by` is at least 2048.
  local function divide(hi, lo, by)
    local quotient = floor(hi / by)
    local rest = hi - quotient * by
    for _, part in ipairs({ floor(lo / 65536), lo % 65536 }) do
      local value = rest * 65536.0 + part
      local digit = floor(value / by)
      quotient = quotient * 65536.0 + digit
      rest = value - digit * by
    end
    return quotient, rest
  end

  -- Whole seconds and the nanoseconds left.
  function Numbers.seconds(n)
    return divide(n.hi, n.lo, 1000000000)
  end

  function Numbers.decimal(n)
    local hi, lo = magnitude(n)
    local sign = n.neg and "-" or ""
    if hi < 2097152 then return sign .. format("%.0f", hi * TWO32 + lo) end
    local quotient, rest = divide(hi, lo, 1000000000)
    return sign .. format("%.0f%09.0f", quotient, rest)
  end

  function Numbers.hexadecimal(n)
    local hi, lo = magnitude(n)
    local sign = n.neg and "-0x" or "0x"
    if hi > 0 then return sign .. format("%x%08x", hi, lo) end
    return sign .. format("%x", lo)
  end

  local function each_nibble(a, b, combine)
    local result, weight = 0, 1
    for _ = 1, 8 do
      result = result + combine(a % 16, b % 16) * weight
      a, b, weight = floor(a / 16), floor(b / 16), weight * 16
    end
    return result
  end

  local function nibble_and(a, b)
    local result, weight = 0, 1
    for _ = 1, 4 do
      if a % 2 == 1 and b % 2 == 1 then result = result + weight end
      a, b, weight = floor(a / 2), floor(b / 2), weight * 2
    end
    return result
  end

  local function nibble_without(a, b)
    return a - nibble_and(a, b)
  end

  function Numbers.equal(a, b)
    return a.neg == b.neg and a.hi == b.hi and a.lo == b.lo
  end

  function Numbers.zero(n)
    return n.hi == 0 and n.lo == 0 and not n.neg
  end

  -- How many bits are set, of a number that is not negative.
  function Numbers.bits(n)
    local count = 0
    for _, half in ipairs({ n.hi, n.lo }) do
      while half > 0 do
        count = count + half % 2
        half = math.floor(half / 2)
      end
    end
    return count
  end

  -- The bits of both.
  function Numbers.both(a, b)
    return {
      neg = a.neg and b.neg,
      hi = each_nibble(a.hi, b.hi, nibble_and),
      lo = each_nibble(a.lo, b.lo, nibble_and),
    }
  end

  -- The bits of a that b has not.
  function Numbers.without(a, b)
    return {
      neg = a.neg and not b.neg,
      hi = each_nibble(a.hi, b.hi, nibble_without),
      lo = each_nibble(a.lo, b.lo, nibble_without),
    }
  end

  -- RFC 1071 over s[first..last]: the complement of the one's complement sum of big-endian words.
  function Numbers.checksum(s, first, last)
    local sum = 0
    for at = first, last - 1, 2 do
      local high, low = s:byte(at, at + 1)
      sum = sum + high * 256 + low
    end
    if (last - first) % 2 == 0 then sum = sum + s:byte(last) * 256 end
    while sum > 65535 do sum = sum % 65536 + floor(sum / 65536) end
    return 65535 - sum
  end
end
