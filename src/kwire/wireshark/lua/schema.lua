-- SCHEMA: the map of a probe, put together from its frames and checked, so that records can be read by it.
-- The laws are those of kwire's own reader: what is continued adds maps by key and lists at the end; a reader
-- ignores keys that it does not know; everything that is wrong is BAD_PAYLOAD at the start of the payload.

local Schema = {}

do
  local function fail(offset, found, expected)
    error(Cbor.bad(offset, found, expected), 0)
  end

  -- A map as a table from the identities of its keys to its items; the last of equal keys counts.
  local function entries(node)
    local found = {}
    for number, key in ipairs(node.keys) do found[Cbor.identity(key)] = node.items[number] end
    return found
  end

  local function merge(whole, part, base)
    local places = {}
    for number, key in ipairs(whole.keys) do places[Cbor.identity(key)] = number end
    for number, key in ipairs(part.keys) do
      local name, item = Cbor.identity(key), part.items[number]
      local place = places[name]
      local old = place and whole.items[place]
      if old and (old.kind == "map" or old.kind == "list") and old.kind ~= item.kind then
        fail(base, Cbor.shown(key) .. ": " .. item.kind, old.kind .. ", as in the frame before")
      end
      if not place then
        place = #whole.keys + 1
        whole.keys[place], whole.items[place], places[name] = key, item, place
      elseif old.kind == "map" then
        merge(old, item, base)
      elseif old.kind == "list" then
        for _, element in ipairs(item.items) do old.items[#old.items + 1] = element end
      else
        whole.items[place] = item
      end
    end
  end

  local KINDS = { text = true, int = true, map = true, list = true, bool = true }

  -- The item of a key, of the kind wanted; nil where it is missing and not required.
  local function pick(map, path, key, kind, base, required)
    assert(KINDS[kind])
    local item = map["t" .. key]
    if not item then
      if required then fail(base, path .. key .. ": nothing", kind) end
      return nil
    end
    if item.kind ~= kind then fail(base, path .. key .. ": " .. item.kind, kind) end
    return item
  end

  local function text(map, path, key, base, required)
    local item = pick(map, path, key, "text", base, required)
    return item and item.value or ""
  end

  -- A number from 0 to below `high`, all of which a double holds.
  local function number(map, path, key, base, high, default)
    local item = pick(map, path, key, "int", base, default == nil)
    if not item then return default end
    local value = item.value and Numbers.plain(item.value)
    if not value or value >= high then
      fail(base, path .. key .. ": " .. Cbor.shown(item), "0 to " .. high - 1)
    end
    return value
  end

  -- A map from integers to text, as a list of {number, name}; integers of more than 64 bits name nothing.
  local function names(item, path, base)
    local found = {}
    for identity, name in pairs(entries(item)) do
      if identity:sub(1, 1) ~= "i" or name.kind ~= "text" then
        fail(base, path .. ": another thing", "an integer and text")
      end
    end
    local last = {}
    for place, key in ipairs(item.keys) do
      if key.value then
        local identity = Cbor.identity(key)
        if last[identity] then
          last[identity].name = item.items[place].value
        else
          last[identity] = { number = key.value, name = item.items[place].value }
          found[#found + 1] = last[identity]
        end
      end
    end
    return found
  end

  local NOTHING = { neg = false, hi = 0, lo = 0 }

  local function by_number(list)
    local found = { list = list }
    for _, entry in ipairs(list) do found[Numbers.key(entry.number)] = entry.name end
    return found
  end

  local function field_problem(field, rule, size)
    if field.name == "" then return "it has no name" end
    if not rule then return "type " .. field.type .. " is unknown" end
    if field.count < 1 or field.size < 1 or field.size % field.count ~= 0 then
      return field.size .. " bytes do not hold " .. field.count .. " equal elements"
    end
    if rule.tail and field.count ~= 1 then return "type " .. field.type .. " cannot be an array" end
    if #rule.sizes > 0 then
      local fits = false
      for _, one in ipairs(rule.sizes) do fits = fits or one == field.width end
      if not fits then return "type " .. field.type .. " cannot have " .. field.width .. " bytes" end
    end
    if field.offset < Tables.fields_at or field.offset + field.size > size then
      return "bytes " .. field.offset .. " to " .. field.offset + field.size .. " are outside of the fixed part"
    end
    if field.limit > Tables.tail_max then return "limit " .. field.limit .. " is too much" end
    return nil
  end

  local function read_field(item, number_, base)
    local path = "fields[" .. number_ .. "]."
    if item.kind ~= "map" then fail(base, path .. " " .. item.kind, "a map") end
    local map, high = entries(item), Tables.max_event
    local field = {
      name = text(map, path, "name", base, true),
      type = text(map, path, "type", base, true),
      offset = number(map, path, "offset", base, high),
      size = number(map, path, "size", base, high),
      unit = text(map, path, "unit", base),
      meaning = text(map, path, "meaning", base),
      count = number(map, path, "count", base, high, 1),
      enum = text(map, path, "enum", base),
      limit = number(map, path, "limit", base, high, 0),
      display = text(map, path, "display", base),
      table = text(map, path, "table", base),
    }
    local mask = pick(map, path, "mask", "int", base)
    if mask and (not mask.value or mask.value.neg) then fail(base, path .. "mask", "an unsigned integer") end
    field.mask = mask and mask.value or NOTHING
    field.width = field.count > 0 and math.floor(field.size / field.count) or 0
    field.rule = Tables.field_types[field.type]
    field.line = Text.line(field.name)
    return field
  end

  -- The clock as {name, sub, add}: seconds and nanoseconds of both its times.
  local function read_clock(item, base)
    if item.kind ~= "map" then fail(base, "clock: " .. item.kind, "a map") end
    local map = entries(item)
    local clock = { name = text(map, "clock.", "name", base, true) }
    for _, key in ipairs({ "monotonic", "wall" }) do
      local time = pick(map, "clock.", key, "int", base, true)
      if not time.value or time.value.neg then fail(base, "clock." .. key, "an unsigned integer") end
      local seconds, rest = Numbers.seconds(time.value)
      clock[key] = { seconds = seconds, nanoseconds = rest }
    end
    return clock
  end

  local function read(id, whole, base)
    local map = entries(whole)
    local schema = { id = id, fields = {}, enums = {} }
    for number_, item in ipairs(pick(map, "", "fields", "list", base, true).items) do
      schema.fields[number_] = read_field(item, number_ - 1, base)
    end
    local tables = pick(map, "", "enums", "map", base)
    for name, item in pairs(tables and entries(tables) or {}) do
      if name:sub(1, 1) ~= "t" then fail(base, "enums: an integer", "text as a name") end
      if item.kind ~= "map" then fail(base, "enums: " .. item.kind, "a map") end
      schema.enums[name:sub(2)] = by_number(names(item, "enums", base))
    end
    local program = pick(map, "", "program", "list", base)
    for _, piece in ipairs(program and program.items or {}) do
      if piece.kind ~= "text" then fail(base, "program: " .. piece.kind, "a list of texts") end
    end
    local shares = pick(map, "", "shares", "list", base)
    for _, spec in ipairs(shares and shares.items or {}) do
      if spec.kind ~= "text" then fail(base, "shares: " .. spec.kind, "a list of texts") end
    end
    if map.tclock then schema.clock = read_clock(map.tclock, base) end
    schema.probe = text(map, "", "probe", base, true)
    schema.kind = text(map, "", "kind", base, true)
    schema.target = text(map, "", "target", base)
    schema.size = number(map, "", "size", base, 9007199254740992)
    local order = text(map, "", "order", base, true)
    schema.word = number(map, "", "word", base, 9007199254740992)
    local symbols = pick(map, "", "symbols", "map", base)
    schema.symbols = symbols and names(symbols, "symbols", base) or {}
    table.sort(schema.symbols, function(a, b) return Numbers.less(a.number, b.number) end)
    local of = pick(map, "", "map", "map", base)
    schema.tells = of ~= nil and text(entries(of), "map.", "kind", base) == "stack"
    schema.host, schema.kernel = text(map, "", "host", base), text(map, "", "kernel", base)

    if order ~= "little" and order ~= "big" then fail(base, "order " .. order, "a sound schema") end
    if schema.word ~= 4 and schema.word ~= 8 then fail(base, "word " .. schema.word, "a sound schema") end
    if schema.size < Tables.fields_at or schema.size > Tables.max_event then
      fail(base, "size " .. schema.size, "a sound schema")
    end
    schema.little = order == "little"
    local bytes, known = 0, {}
    for _, field in ipairs(schema.fields) do bytes = bytes + field.size end
    if #schema.fields > Tables.max_fields or bytes > Tables.max_field_bytes then
      fail(base, "more fields than a record may have", "a sound schema")
    end
    for _, field in ipairs(schema.fields) do
      local problem = field_problem(field, field.rule, schema.size)
      if not problem and known[field.name] then problem = "it is there twice" end
      if problem then fail(base, "field " .. Text.line(field.name) .. ": " .. problem, "a sound schema") end
      known[field.name] = true
    end
    schema.base = schema.probe:match("^[^(]*") -- as in the table of filter names
    schema.name = schema.base:match("[^:]+$") or schema.probe
    return schema
  end

  -- Puts SCHEMA frames together. `state`: {maps = {}, held = {}, total = 0}, one a stream.
  -- Takes the decoded map of one frame, whose payload of `size` bytes begins at `base`; gives the schema once
  -- its last frame is there. Raises; then what was there of this schema is forgotten.
  function Schema.add(state, id, node, base, size)
    local whole, held = state.maps[id], state.held[id] or 0
    state.maps[id], state.held[id] = nil, nil
    state.total = state.total - held
    held = held + size
    if held + state.total > Tables.max_pending then
      fail(base, held .. " bytes and no end", "at most " .. Tables.max_pending .. " bytes of schema")
    end
    local part, more = { kind = "map", keys = {}, items = {} }, false
    for number_, key in ipairs(node.keys) do
      local item = node.items[number_]
      if key.kind == "text" and key.value == "more" then
        if item.kind ~= "bool" then fail(base, "more: " .. item.kind, "more: true or false") end
        more = item.value
      else
        part.keys[#part.keys + 1], part.items[#part.items + 1] = key, item
      end
    end
    whole = whole or { kind = "map", keys = {}, items = {} }
    merge(whole, part, base)
    if more then
      state.maps[id], state.held[id] = whole, held
      state.total = state.total + held
      return nil
    end
    return read(id, whole, base)
  end

  -- ---- names of values

  -- The items of a list of so many, each of its kind; nil where it is another thing.
  local function items(node, ...)
    local kinds = { ... }
    if not node or node.kind ~= "list" or #node.items ~= #kinds then return nil end
    for place, kind in ipairs(kinds) do
      if node.items[place].kind ~= kind then return nil end
    end
    return node.items
  end

  -- Puts the names that a table of stacks has for single addresses in the kernel into `named`: their numbers
  -- are the addresses, 2^63 and more. What is no such row is passed over.
  function Schema.learn(named, map)
    local rows = entries(map)["trows"]
    for _, row in ipairs(rows and rows.kind == "list" and rows.items or {}) do
      local both = items(row, "list", "list")
      local key = both and items(both[1], "int", "int")
      local frame = both and items(both[2], "int", "text", "int", "text")
      local number, offset = key and key[1].value, frame and frame[3].value
      if number and offset and not number.neg and number.hi >= 2147483648 then
        local name = frame[2].value
        if name ~= "" and not Numbers.zero(offset) then name = name .. "+" .. Numbers.hexadecimal(offset) end
        local told = named[Numbers.key(number)]
        named[Numbers.key(number)] = (told == nil or told == name) and name -- false: two kernels, two names
      end
    end
  end

  -- `name` or `name+0x10` of an address in the kernel as it was told, else of the nearest symbol at or below;
  -- nil where none is near.
  function Schema.symbol(schema, address)
    local told = schema.named and schema.named[Numbers.key(address)]
    if told and told ~= "" then return told end
    local list, low, high = schema.symbols, 1, #schema.symbols
    while low <= high do
      local middle = math.floor((low + high) / 2)
      if Numbers.less(address, list[middle].number) then high = middle - 1 else low = middle + 1 end
    end
    local found = list[high]
    if not found or found.number.neg then return nil end
    local distance = Numbers.distance(address, found.number)
    if distance >= Tables.symbol_reach then return nil end
    return distance == 0 and found.name or found.name .. string.format("+0x%x", distance)
  end

  -- The places of the numbers of a table that are sets of bits, those of more bits first.
  local function widest(table_)
    if table_.widest then return table_.widest end
    local places, counts = {}, {}
    for place, one in ipairs(table_.list) do
      if not Numbers.zero(one.number) and not one.number.neg then
        places[#places + 1] = place
        counts[place] = Numbers.bits(one.number)
      end
    end
    table.sort(places, function(a, b)
      if counts[a] ~= counts[b] then return counts[a] > counts[b] end
      return a < b
    end)
    table_.widest = places
    return places
  end

  -- Names of the bits set, in the order of the table, joined by |, those under the mask by one name; bits without one in hexadecimal.
  local function flags(value, table_, mask)
    local whole = table_[Numbers.key(value)]
    if mask.hi == 4294967295 and mask.lo == 4294967295 then return whole end
    local choice, rest = Numbers.both(value, mask), Numbers.without(value, mask)
    local masked = not Numbers.zero(mask)
    local zero = masked and table_[Numbers.key(NOTHING)]
    if whole and not (zero and not Numbers.zero(rest)) then return whole end
    local taken, found = {}, {}
    for _, place in ipairs(widest(table_)) do
      local bits = table_.list[place].number
      if Numbers.zero(Numbers.both(bits, mask)) and Numbers.equal(Numbers.both(rest, bits), bits) then
        taken[place] = true
        rest = Numbers.without(rest, bits)
      end
    end
    for place, one in ipairs(table_.list) do
      if taken[place] then found[#found + 1] = one.name end
    end
    local name = masked and table_[Numbers.key(choice)]
    if name or (not Numbers.zero(choice) and (#found > 0 or not Numbers.zero(rest))) then
      table.insert(found, 1, name or Numbers.hexadecimal(choice))
    end
    if #found == 0 and (rest.neg or Numbers.zero(rest)) then return nil end
    if not Numbers.zero(rest) then found[#found + 1] = Numbers.hexadecimal(rest) end
    return table.concat(found, "|")
  end

  local function error_name(n)
    if not n.neg or n.hi ~= 4294967295 or n.lo < 4294967296 - Tables.max_errno then return nil end
    local name = Tables.errors[math.floor(4294967296 - n.lo)]
    return name and "-" .. name
  end

  local function upper(n, by) return math.floor(n / by) end

  -- For each display but flags: an integer as people read it; nil: as a plain number.
  local DISPLAYS = {
    hex = Numbers.hexadecimal,
    octal = function(n)
      local plain = Numbers.plain(n)
      return plain and plain > 0 and string.format("0%o", plain) or nil
    end,
    errno = error_name,
    address = function(n)
      return error_name(n) or Numbers.hexadecimal({ neg = false, hi = n.hi, lo = n.lo })
    end,
    fd = function(n)
      local low = n.lo >= 2147483648 and n.lo - 4294967296 or n.lo
      return low == Tables.at_fdcwd and "AT_FDCWD" or string.format("%.0f", low)
    end,
    dev = function(n)
      local plain = Numbers.plain(n)
      return plain and string.format("%.0f:%.0f", upper(plain, 1048576), plain % 1048576) or nil
    end,
    user_dev = function(n)
      local minor = n.lo % 256 + upper(n.lo, 1048576) * 256
      return string.format("%.0f:%.0f", upper(n.lo, 256) % 4096, minor)
    end,
    signal = function(n) return Tables.signals[Numbers.plain(n) or -1] end,
    family = function(n) return Tables.families[Numbers.plain(n) or -1] end,
  }

  -- The name of an integer value of this field; nil where it has none.
  function Schema.name(schema, field, value)
    if field.rule.address then
      if field.type == "ptr" or Numbers.zero(value) then return nil end
      return Schema.symbol(schema, value)
    end
    if field.rule.kind ~= "int" then return nil end
    local table_ = schema.enums[field.enum]
    if table_ and #table_.list > 0 then
      if field.rule.enum then return table_[Numbers.key(value)] end
      return flags(value, table_, NOTHING)
    end
    if field.display == "flags" then
      local names_ = schema.enums[field.table]
      return names_ and flags(value, names_, field.mask)
    end
    local show = DISPLAYS[field.display]
    return show and show(value)
  end

  -- Seconds and nanoseconds since 1970 of a timestamp; as it stands where there is no clock.
  function Schema.wall(schema, timestamp)
    local seconds, rest = Numbers.seconds(timestamp)
    local clock = schema.clock
    if clock then
      seconds = seconds - clock.monotonic.seconds + clock.wall.seconds
      rest = rest - clock.monotonic.nanoseconds + clock.wall.nanoseconds
    end
    while rest < 0 do seconds, rest = seconds - 1, rest + 1000000000 end
    while rest >= 1000000000 do seconds, rest = seconds + 1, rest - 1000000000 end
    return seconds, rest
  end
end
