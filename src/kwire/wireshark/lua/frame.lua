-- Frames, records and the other payloads, read strictly: everything that is wrong is named by its code, its
-- offset from the start of the packet, what was found and what was expected, as kwire names it.
-- Nothing here touches Wireshark: a frame is read first, and shown when it is known what it is.

local Frame = {}

do
  local HEADER = Tables.header_size

  local function problem(code, offset, found, expected)
    return { code = code, offset = offset, found = tostring(found), expected = tostring(expected) }
  end

  local function has(flags, bit)
    return math.floor(flags / bit) % 2 == 1
  end
  Frame.has = has

  -- What is wrong with the header at `at` (offset) of the packet `s`.
  local function header_problems(header, at)
    local found = {}
    if header.version ~= Tables.version then
      found[1] = problem("BAD_VERSION", at, header.version, Tables.version)
    end
    local rule = Tables.types[header.type]
    if not rule then
      found[#found + 1] = problem("BAD_TYPE", at, header.type, "0 to " .. Tables.last_type)
    elseif rule.id_zero and header.id ~= 0 then
      found[#found + 1] = problem("BAD_ID", at + 4, header.id, 0)
    end
    local checksum, padded = has(header.flags, Tables.flags.CHECKSUM), has(header.flags, Tables.flags.PADDED)
    local rest = header.flags - (checksum and Tables.flags.CHECKSUM or 0) - (padded and Tables.flags.PADDED or 0)
    if rest ~= 0 then
      found[#found + 1] = problem("BAD_FLAGS", at + 1, string.format("0x%02x", header.flags), "no reserved bit")
    elseif padded and not checksum then
      found[#found + 1] = problem("BAD_FLAGS", at + 1, "PADDED alone", "PADDED with CHECKSUM")
    end
    return found
  end

  -- Where the payload ends; what is wrong with padding and checksum goes to `problems`.
  local function trailer(s, at, frame, problems)
    local header = frame.header
    local stop = at + header.length
    if not has(header.flags, Tables.flags.CHECKSUM) then return stop end
    local pad = has(header.flags, Tables.flags.PADDED) and 1 or 0
    local room = header.length - HEADER
    if room < pad + 2 then
      problems[#problems + 1] = problem("BAD_CHECKSUM", at + HEADER, room .. " bytes after the header", pad + 2)
      return at + HEADER
    end
    if pad == 1 and s:byte(stop - 2) ~= 0 then
      problems[#problems + 1] = problem("BAD_PADDING", stop - 3, s:byte(stop - 2), 0)
    end
    if pad == 1 and header.length % 2 == 1 then
      problems[#problems + 1] = problem("BAD_PADDING", stop - 3, "padding before an odd offset", "no padding")
    end
    local high, low = s:byte(stop - 1, stop)
    frame.checksum, frame.computed = high * 256 + low, Numbers.checksum(s, at + 1, stop - 2)
    frame.padded = pad == 1
    if frame.checksum ~= frame.computed then
      local found, expected = string.format("%04x", frame.checksum), string.format("%04x", frame.computed)
      problems[#problems + 1] = problem("BAD_CHECKSUM", stop - 2, found, expected)
    end
    return stop - 2 - pad
  end

  -- Read the frame at offset `at` of s[..stop]. `whole` is false where its length is not sound, so that the
  -- next one cannot be found either; then `stop` is where the bytes end.
  function Frame.read(s, at, stop)
    local frame = { at = at, stop = stop, whole = false, problems = {} }
    local there = stop - at
    if there < HEADER then
      frame.problems[1] = problem("TRUNCATED_HEADER", stop, there, HEADER)
      return frame
    end
    local first, flags, high, low, i1, i2, i3, i4 = s:byte(at + 1, at + HEADER)
    local header = {
      version = math.floor(first / 16),
      type = first % 16,
      flags = flags,
      length = high * 256 + low,
      id = ((i1 * 256 + i2) * 256 + i3) * 256 + i4,
    }
    frame.header = header
    frame.problems = header_problems(header, at)
    if header.length < HEADER then
      table.insert(frame.problems, problem("LENGTH_BELOW_HEADER", at + 2, header.length, "at least " .. HEADER))
    elseif header.length > there then
      table.insert(frame.problems, problem("TRUNCATED_PAYLOAD", stop, there, header.length))
    else
      frame.whole = true
      frame.stop = at + header.length
      frame.payload_stop = trailer(s, at, frame, frame.problems)
      frame.payload = frame.payload_stop - at - HEADER -- its number of bytes
      local rule = Tables.types[header.type]
      frame.rule = rule
      if rule and rule.empty and frame.payload > 0 then
        table.insert(frame.problems, problem("BAD_PAYLOAD", at + HEADER, frame.payload .. " bytes", "none"))
      end
      if rule and rule.name == "EVENT" and header.length > Tables.max_event then
        local most = "at most " .. Tables.max_event
        table.insert(frame.problems, problem("PAYLOAD_TOO_LONG", at + 2, header.length, most))
      end
    end
    return frame
  end

  local function fail(offset, found, expected)
    error(Cbor.bad(offset, found, expected), 0)
  end

  -- ---- payloads; each raises Cbor.bad's table

  local function big(s, offset, size)
    return Numbers.read(s, offset + 1, size, false, false)
  end

  function Frame.lost(s, frame)
    local base = frame.at + HEADER
    if frame.payload ~= Tables.lost_size then
      fail(base, frame.payload .. " bytes", Tables.lost_size .. " bytes")
    end
    local lost = {
      first = big(s, base, 8),
      last = big(s, base + 8, 8),
      count = big(s, base + 16, 8),
      cpu = big(s, base + 24, 2).lo,
      cause = s:byte(base + 27),
    }
    if Numbers.less(lost.last, lost.first) then
      fail(base + 8, Numbers.decimal(lost.last), "last ns, not before the first")
    end
    if s:sub(base + 28, base + 32):find("[^\0]") then
      fail(base + 27, Text.hex(s:sub(base + 28, base + 32)), "five zero bytes")
    end
    return lost
  end

  function Frame.ack(s, frame)
    local base = frame.at + HEADER
    if frame.payload < 4 or frame.payload % 8 ~= 4 then
      fail(base, frame.payload .. " bytes", "a window (4 bytes) and ranges of 8")
    end
    local ack = { window = big(s, base, 4).lo, ranges = {} }
    for offset = base + 4, base + frame.payload - 8, 8 do
      ack.ranges[#ack.ranges + 1] = { at = offset, first = big(s, offset, 4).lo, last = big(s, offset + 4, 4).lo }
    end
    return ack
  end

  function Frame.map(s, frame)
    local first = frame.at + HEADER
    return Cbor.map(s, first + 1, first + frame.payload)
  end

  -- The record of an EVENT: its timestamp and, in the fields' order, {field, at, size, cut, ...} of each
  -- value's bytes. The problems of a record that is not as described are those of the frame.
  function Frame.record(s, frame, schema)
    local stop = frame.payload_stop
    local inside = stop - frame.at
    if inside < schema.size then
      fail(stop, "a record that ends at " .. inside, "its fixed part to end at " .. schema.size)
    end
    local values, total = {}, 0
    for _, field in ipairs(schema.fields) do
      if field.rule.tail then
        total = total + Numbers.read(s, frame.at + field.offset + 3, 2, schema.little, false).lo % (Tables.tail_max + 1)
        if total > Tables.max_field_bytes then
          fail(frame.at + field.offset, total .. " bytes of values in the tail", "at most " .. Tables.max_field_bytes)
        end
      end
    end
    for number, field in ipairs(schema.fields) do
      local at = frame.at + field.offset
      local value = { field = field, at = at, size = field.size, ref = nil }
      if field.rule.tail then
        local start = Numbers.read(s, at + 1, 2, schema.little, false).lo
        local length = Numbers.read(s, at + 3, 2, schema.little, false).lo
        value.ref, value.cut = at, length > Tables.tail_max + 1
        value.unread = length == Tables.tail_max + 1
        length = length % (Tables.tail_max + 1)
        if length > 0 and (start < schema.size or start + length > inside) then
          fail(at, "tail bytes " .. start .. " to " .. start + length, "bytes " .. schema.size .. " to " .. inside)
        end
        value.at, value.size, value.start = frame.at + start, length, start
      end
      values[number] = value
    end
    return { timestamp = Numbers.read(s, frame.at + Tables.timestamp_at + 1, 8, schema.little, false), values = values }
  end
end
