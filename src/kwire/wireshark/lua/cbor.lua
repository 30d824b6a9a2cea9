-- CBOR maps (RFC 8949), read by the rules of the protocol: bounded depth, every count held against the bytes
-- that are left, text valid, keys text or integers and each there once, no tags.
-- What breaks a rule is raised as Cbor.bad's table and nothing else; offsets count from the start of the packet.

local Cbor = {}

do
  local UNSIGNED, NEGATIVE, BYTES, TEXT, LIST, MAP, TAG = 0, 1, 2, 3, 4, 5, 6
  local INDEFINITE, BREAK = 31, 0xFF
  local WIDTH = { [24] = 1, [25] = 2, [26] = 4, [27] = 8 }
  local NAMES = { [0] = "an unsigned integer", "a negative integer", "a byte string", "text", "a list", "a map" }
  local END = "the end of the payload"

  -- A payload that is not what its type says: an error for pcall.
  function Cbor.bad(offset, found, expected)
    return { code = "BAD_PAYLOAD", offset = offset, found = found, expected = expected }
  end

  local function fail(index, found, expected)
    error(Cbor.bad(index - 1, found, expected), 0)
  end

  -- Major type, additional information, argument as a number table (nil: indefinite), index after the head.
  local function head(s, at, last)
    if at > last then fail(at, END, "a CBOR item") end
    local byte = s:byte(at)
    local info = byte % 32
    local major = (byte - info) / 32
    if info < 24 then return major, info, { neg = false, hi = 0, lo = info }, at + 1 end
    local width = WIDTH[info]
    if width then
      if at + width > last then fail(last + 1, END, width .. " bytes") end
      return major, info, Numbers.read(s, at + 1, width, false, false), at + 1 + width
    end
    if info == INDEFINITE and major >= BYTES and major <= MAP then return major, info, nil, at + 1 end
    fail(at, string.format("CBOR byte 0x%02x", byte), "a CBOR item")
  end

  local function closed(at, last)
    if at > last then fail(at, END, "CBOR break 0xff") end
    return at + 1
  end

  local function string_item(s, at, last, major, argument, start)
    local value
    if argument == nil then
      local parts = {}
      while start <= last and s:byte(start) ~= BREAK do
        local kind, _, size, first = head(s, start, last)
        if kind ~= major or size == nil then
          fail(start, string.format("CBOR byte 0x%02x", s:byte(start)), NAMES[major])
        end
        local chunk
        chunk, start = string_item(s, start, last, major, size, first)
        parts[#parts + 1] = chunk
      end
      return table.concat(parts), closed(start, last)
    end
    local size = Numbers.plain(argument)
    if not size or size > last - start + 1 then
      fail(at, NAMES[major] .. " of " .. Numbers.decimal(argument) .. " bytes", (last - start + 1) .. " bytes")
    end
    value = s:sub(start, start + size - 1)
    if major == TEXT then
      local wrong = Text.invalid(s, start, start + size - 1)
      if wrong then fail(wrong, string.format("byte 0x%02x", s:byte(wrong)), "UTF-8 text") end
    end
    return value, start + size
  end

  -- What identifies a key: equal for keys that are equal once decoded.
  function Cbor.identity(key)
    if key.kind == "text" then return "t" .. key.value end
    return "i" .. (key.value and Numbers.key(key.value) or "-1" .. Numbers.key(key.beyond))
  end

  local item

  -- A map's key: its identity as text, and how it is shown.
  local function map_key(s, at, last, seen)
    local major = head(s, at, last)
    if major ~= UNSIGNED and major ~= NEGATIVE and major ~= TEXT then
      fail(at, (NAMES[major] or "a simple value") .. " as a key", "text or integer")
    end
    local node, stop = item(s, at, last, 0)
    local bytes = s:sub(at, stop - 1)
    if seen[bytes] then fail(at, "the same key again", "each key once") end
    seen[bytes] = true
    return node, stop
  end

  local function container(s, at, last, major, argument, start, depth)
    local node = { kind = major == MAP and "map" or "list", keys = {}, items = {} }
    local wanted = nil
    if argument ~= nil then
      wanted = Numbers.plain(argument)
      if not wanted or wanted * (major == MAP and 2 or 1) > last - start + 1 then
        local found = NAMES[major] .. " of " .. Numbers.decimal(argument) .. " items"
        fail(at, found, "what " .. (last - start + 1) .. " bytes can hold")
      end
    end
    local seen, places, done = {}, {}, 0
    while done ~= wanted do
      if wanted == nil and start <= last and s:byte(start) == BREAK then break end
      local place = #node.items + 1
      if major == MAP then
        local key
        key, start = map_key(s, start, last, seen)
        local identity = Cbor.identity(key)
        place = places[identity] or place -- the same key in another encoding: the last one counts
        places[identity] = place
        node.keys[place] = key
      end
      node.items[place], start = item(s, start, last, depth)
      done = done + 1
    end
    if wanted == nil then start = closed(start, last) end
    return node, start
  end

  -- The item at index `at` and the index after it. `from`, `to`: offsets of its bytes.
  function item(s, at, last, depth)
    local major, info, argument, after = head(s, at, last)
    local node
    if major == UNSIGNED then
      node = { kind = "int", value = argument }
    elseif major == NEGATIVE then
      node = { kind = "int", value = Numbers.minus_one_less(argument), beyond = argument }
    elseif major == BYTES or major == TEXT then
      node = { kind = major == TEXT and "text" or "bytes" }
      node.value, after = string_item(s, at, last, major, argument, after)
    elseif major == LIST or major == MAP then
      if depth == Tables.cbor_depth then
        fail(at, "one more level", "at most " .. Tables.cbor_depth .. " levels")
      end
      node, after = container(s, at, last, major, argument, after, depth + 1)
    elseif major == TAG then
      fail(at, "CBOR tag " .. Numbers.decimal(argument), "no tags")
    elseif info == 20 or info == 21 then
      node = { kind = "bool", value = info == 21 }
    elseif info == 22 then
      node = { kind = "null" }
    elseif info >= 25 and info <= 27 then
      node = { kind = "float", bytes = s:sub(at + 1, after - 1) }
    else
      fail(at, string.format("CBOR byte 0x%02x", s:byte(at)), "a number, true, false or null")
    end
    node.from, node.to = at - 1, after - 1
    return node, after
  end

  -- The map that fills s[first..last].
  function Cbor.map(s, first, last)
    local node, after = item(s, first, last, 0)
    if node.kind ~= "map" then
      fail(first, NAMES[(s:byte(first) - s:byte(first) % 32) / 32] or "a simple value", "a CBOR map")
    end
    if after ~= last + 1 then
      fail(after, (last + 1 - after) .. " bytes after the map", END)
    end
    return node
  end

  local function float_text(bytes)
    local size = #bytes
    local exponent_bits = size == 2 and 5 or size == 4 and 8 or 11
    local n = Numbers.read(bytes, 1, size, false, false)
    local bits = size * 8
    local fraction_bits = bits - 1 - exponent_bits
    local value = size == 8 and n.hi or n.lo
    local low = size == 8 and n.lo / 4294967296.0 or 0
    local top = size == 8 and 32 or bits
    local here = top - 1 - exponent_bits -- fraction bits in `value`
    local negative = value >= 2.0 ^ (top - 1)
    if negative then value = value - 2.0 ^ (top - 1) end
    local exponent = math.floor(value / 2.0 ^ here)
    local fraction = (value - exponent * 2.0 ^ here + low) / 2.0 ^ here
    local bias = 2.0 ^ (exponent_bits - 1) - 1
    local sign = negative and "-" or ""
    if exponent == 2.0 ^ exponent_bits - 1 then
      return fraction_bits > 0 and fraction > 0 and "nan" or sign .. "inf"
    end
    if exponent == 0 then return sign .. string.format("%.17g", fraction * 2.0 ^ (1 - bias)) end
    return sign .. string.format("%.17g", (1 + fraction) * 2.0 ^ (exponent - bias))
  end

  local INLINE = 8 -- entries of a list or map that are shown on its own line

  -- A node as text on one line; of a list or map in a list or map only how much it holds.
  function Cbor.shown(node, inner)
    if node.kind == "text" then return Text.line(node.value) end
    if node.kind == "bytes" then return Text.hex(node.value) end
    if node.kind == "bool" then return node.value and "true" or "false" end
    if node.kind == "null" then return "null" end
    if node.kind == "float" then return float_text(node.bytes) end
    if node.kind == "int" then
      if node.value then return Numbers.decimal(node.value) end
      return "-1 - " .. Numbers.decimal(node.beyond)
    end
    local map = node.kind == "map"
    local count = #node.items
    if inner or count > INLINE or count == 0 then return count .. (map and " entries" or " items") end
    local parts = {}
    for number, item in ipairs(node.items) do
      parts[number] = (map and Cbor.shown(node.keys[number], true) .. ": " or "") .. Cbor.shown(item, true)
    end
    return (map and "{" or "[") .. table.concat(parts, ", ") .. (map and "}" or "]")
  end
end
