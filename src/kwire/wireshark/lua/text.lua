-- Text of bytes: UTF-8, and what is not valid stands there as \xff, as everywhere in kwire. Backslashes right
-- before such an escape, or what looks like one, stand there twice: different bytes are different texts.

local Text = {}

do
  local format = string.format

  -- The index where the sequence at s[i] ends, or nil where it is no UTF-8 (within s[..last]).
  local function sequence(s, i, last)
    local first = s:byte(i)
    if first < 0x80 then return i end
    local more, low, high = 0, 0x80, 0xBF
    if first >= 0xC2 and first <= 0xDF then more = 1
    elseif first >= 0xE0 and first <= 0xEF then
      more = 2
      if first == 0xE0 then low = 0xA0 elseif first == 0xED then high = 0x9F end
    elseif first >= 0xF0 and first <= 0xF4 then
      more = 3
      if first == 0xF0 then low = 0x90 elseif first == 0xF4 then high = 0x8F end
    else return nil end
    if i + more > last then return nil end
    for at = i + 1, i + more do
      local byte = s:byte(at)
      if byte < low or byte > high then return nil end
      low, high = 0x80, 0xBF
    end
    return i + more
  end

  -- The index of the first byte of s[first..last] that is no UTF-8; nil where all is.
  function Text.invalid(s, first, last)
    local at = first
    while at <= last do
      local stop = sequence(s, at, last)
      if not stop then return at end
      at = stop + 1
    end
    return nil
  end

  -- s as text: what is no UTF-8 escaped, and NUL too, which would end a string of Wireshark's.
  function Text.safe(s)
    if not s:find("[\0\128-\255]") and not s:find("\\[x0]") then return s end
    local parts, at, from = {}, 1, 1
    while at <= #s do
      local byte = s:byte(at)
      local stop = byte ~= 0 and sequence(s, at, #s) or nil
      if byte == 92 then -- backslashes, as many as there are
        local last = select(2, s:find("^\\+", at))
        local after = s:byte(last + 1)
        if after and (s:find("^x[89a-f][0-9a-f]", last + 1) or after == 48 or after == 0
            or not sequence(s, last + 1, #s)) then
          parts[#parts + 1] = s:sub(from, last) .. s:sub(at, last)
          from = last + 1
        end
        at = last + 1
      elseif stop then
        at = stop + 1
      else
        parts[#parts + 1] = s:sub(from, at - 1) .. (byte == 0 and "\\0" or format("\\x%02x", byte))
        at = at + 1
        from = at
      end
    end
    return table.concat(parts) .. s:sub(from)
  end

  -- Safe text on one line, for labels and columns.
  function Text.line(s)
    if not s:find("[%c\127-\255]") then return s end
    return (Text.safe(s):gsub("[%c\127]", function(char) return format("\\x%02x", char:byte()) end))
  end

  function Text.hex(s)
    return (s:gsub(".", function(char) return format("%02x", char:byte()) end))
  end

  function Text.cut(s, limit)
    if #s <= limit then return s end
    while limit > 0 and (s:byte(limit + 1) or 0) >= 0x80 and s:byte(limit + 1) < 0xC0 do limit = limit - 1 end
    return s:sub(1, limit) .. "…"
  end
end
