-- Frames as a tree, as one line, and as complaints.

local Show = {}

do
  local HEADER = Tables.header_size
  local MAX_ITEMS = 100000 -- of fields in one packet: a hostile record can claim many more
  local MAX_ARRAY = 4096 -- elements of one array
  local MAX_INFO = 240

  local function range(ctx, at, size)
    return ctx.tvb:range(at, size)
  end

  -- Whether one more item may be shown; the first that may not leaves a note.
  local function room(ctx, tree)
    ctx.items = ctx.items + 1
    if ctx.items == MAX_ITEMS then tree:add_proto_expert_info(Experts.LIMIT) end
    return ctx.items < MAX_ITEMS
  end

  -- Whether somebody looks at this field: at the whole tree, or by a filter, a column or a tap.
  local function wanted(ctx, field)
    return ctx.visible or ctx.top:referenced(field)
  end

  local function complain(tree, problem)
    local code = Tables.codes[problem.code]
    local text = string.format("%s (%d) at offset %d: found %s, expected %s", problem.code, code.number,
      problem.offset, Text.line(problem.found), Text.line(problem.expected))
    local item = tree:add(Fields.error, problem.code)
    item:set_text("Error: " .. text)
    item:set_generated()
    tree:add(Fields.error_code, code.number):set_generated()
    item:add_proto_expert_info(Experts[problem.code], text)
  end

  -- ---- the header and what ends a frame

  local HEADER_FIELDS = { -- field, offset, bytes
    { Fields.version, 0, 1 },
    { Fields.type, 0, 1 },
    { Fields.flags, 1, 1 },
    { Fields.flags_checksum, 1, 1 },
    { Fields.flags_padded, 1, 1 },
    { Fields.flags_reserved, 1, 1 },
    { Fields.length, 2, 2 },
    { Fields.id, 4, 4 },
  }

  local function flag_names(flags)
    local names = {}
    for _, name in ipairs({ "CHECKSUM", "PADDED" }) do
      if Frame.has(flags, Tables.flags[name]) then names[#names + 1] = name end
    end
    return table.concat(names, ", ")
  end

  local function header(ctx, tree, frame)
    local at = frame.at
    if not ctx.visible then
      for _, one in ipairs(HEADER_FIELDS) do
        if wanted(ctx, one[1]) then tree:add(one[1], range(ctx, at + one[2], one[3])) end
      end
      return
    end
    tree:add(Fields.version, range(ctx, at, 1))
    tree:add(Fields.type, range(ctx, at, 1))
    local item = tree:add(Fields.flags, range(ctx, at + 1, 1))
    local names = flag_names(frame.header.flags)
    if names ~= "" then item:append_text(" (" .. names .. ")") end
    item:add(Fields.flags_checksum, range(ctx, at + 1, 1))
    item:add(Fields.flags_padded, range(ctx, at + 1, 1))
    item:add(Fields.flags_reserved, range(ctx, at + 1, 1))
    tree:add(Fields.length, range(ctx, at + 2, 2))
    item = tree:add(Fields.id, range(ctx, at + 4, 4))
    local rule = Tables.types[frame.header.type]
    if rule then item:append_text(" (" .. rule.id .. ")") end
  end

  local function trailer(ctx, tree, frame)
    if not frame.checksum then return end
    if frame.padded then tree:add(Fields.padding, range(ctx, frame.stop - 3, 1)) end
    local good = frame.checksum == frame.computed
    local item = tree:add(Fields.checksum, range(ctx, frame.stop - 2, 2))
    item:append_text(good and " (right)" or string.format(" (WRONG: computed 0x%04x)", frame.computed))
    tree:add(Fields.checksum_status, good and 1 or 0):set_generated()
  end

  local function payload(ctx, tree, frame)
    if frame.payload > 0 then tree:add(Fields.payload, range(ctx, frame.at + HEADER, frame.payload)) end
  end

  -- ---- maps

  local entries

  local function entry(ctx, tree, label, node, meaning)
    if not room(ctx, tree) then return end
    local shown = Cbor.shown(node)
    local item = tree:add(Fields.entry, range(ctx, node.from, node.to - node.from), shown)
    item:set_text((label and label .. ": " or "") .. Text.cut(shown, 200) .. (meaning and " [" .. meaning .. "]" or ""))
    if node.kind == "map" or node.kind == "list" then entries(ctx, item, node, {}) end
  end

  function entries(ctx, tree, node, meanings)
    for number, value in ipairs(node.items) do
      local key = node.keys[number]
      entry(ctx, tree, key and Cbor.shown(key), value, key and meanings[key.value])
    end
  end

  local function control(ctx, tree, frame)
    if not (wanted(ctx, Fields.payload) or wanted(ctx, Fields.entry)) then return end
    local item = tree:add(Fields.payload, range(ctx, frame.at + HEADER, frame.payload))
    item:set_text("Payload: CBOR map of " .. #frame.map.items)
    entries(ctx, item, frame.map, Tables.control[frame.rule.name] or {})
  end

  -- ---- values of events

  local function plain_text(class, value, s, at, width)
    if class == "uint" or class == "int" then return Numbers.decimal(value) end
    if class == "address" then return Numbers.hexadecimal(value) end
    if class == "bool" then return Numbers.zero(value) and "false" or "true" end
    if class == "ipv4" then return string.format("%d.%d.%d.%d", s:byte(at + 1, at + 4)) end
    if class == "ether" then return (Text.hex(s:sub(at + 1, at + width)):gsub("(%x%x)", "%1:"):sub(1, -2)) end
    return nil
  end

  -- One element as text for the line; the number it is, and the name that this number has.
  local function element_text(ctx, schema, field, at, width)
    local class, s = field.rule.class, ctx.s
    if class == "string" then
      local raw = s:sub(at + 1, at + width)
      if not field.rule.tail then raw = raw:match("^[^\0]*") end
      return Text.line(raw)
    end
    if class == "bytes" then
      return Text.hex(s:sub(at + 1, at + math.min(width, 16))) .. (width > 16 and "…" or "")
    end
    if class == "ipv6" then return tostring(range(ctx, at, width):ipv6()) end
    if class == "ipv4" or class == "ether" then return plain_text(class, nil, s, at, width) end
    local number = Numbers.read(s, at + 1, width, schema.little, class == "int")
    local name = Schema.name(schema, field, number)
    return name and Text.line(name) or plain_text(class, number), number, name
  end

  -- One element: its text, its number, and its item in the tree where somebody looks.
  local function element(ctx, tree, schema, field, at, width, label)
    local shown, number, name = element_text(ctx, schema, field, at, width)
    local filter = Fields.of(schema, field)
    local looked = wanted(ctx, filter.field) or (filter.name and name and wanted(ctx, filter.name))
    if not looked then return shown, number end
    local class = field.rule.class
    local place = range(ctx, at, width)
    local item
    if class == "string" then
      local raw = ctx.s:sub(at + 1, at + width)
      item = tree:add(filter.field, place, Text.safe(field.rule.tail and raw or raw:match("^[^\0]*")))
    else
      item = ((number and schema.little) and tree.add_le or tree.add)(tree, filter.field, place)
    end
    if name and filter.name then item:add(filter.name, place, shown):set_generated() end
    if ctx.visible and (filter.unknown or label ~= field.name or name or class == "string") then
      local text = number and plain_text(class, number) or shown
      if name then text = text .. " " .. shown end
      item:set_text(Text.line(label) .. ": " .. Text.cut(text, 200))
    end
    return shown, number, item
  end

  -- What stands behind a value: type, unit, meaning.
  local function described(field)
    if not field.described then
      local count = field.count > 1 and string.format("[%d]", field.count) or ""
      local parts = { field.type .. count }
      if field.unit ~= "" then parts[#parts + 1] = field.unit end
      parts[#parts + 1] = field.meaning ~= "" and field.meaning or field.rule.meaning
      field.described = " [" .. Text.line(table.concat(parts, ", ")) .. "]"
    end
    return field.described
  end

  -- What events of all probes have, under one name.
  local function common(ctx, tree, field, at, size, number, shown)
    local known = Fields.common[field.name]
    if not known or not wanted(ctx, known) then return end
    local item
    if field.name == "comm" then
      item = field.rule.class == "string" and tree:add(known, range(ctx, at, size), shown)
    elseif number and Numbers.plain(number) then
      item = tree:add(known, range(ctx, at, size), UInt64(number.lo, number.hi))
    end
    if item then item:set_hidden() end
  end

  local function tail_value(ctx, tree, schema, value)
    local field = value.field
    if wanted(ctx, Fields.reference) or (value.cut and wanted(ctx, Fields.cut)) then
      local note = string.format("%s: %d bytes at %d", field.line, value.size, value.start)
      local item = tree:add(Fields.reference, range(ctx, value.ref, 4))
      local why = value.unread and ", could not be read" or value.cut and ", cut at its limit" or ""
      item:set_text(note .. why .. described(field))
      if value.cut then item:add(Fields.cut, range(ctx, value.ref, 4), true) end
    end
    if value.unread then return "<unread>" end
    local at = value.size > 0 and value.at or value.ref
    local shown, _, item = element(ctx, tree, schema, field, at, value.size, field.name)
    common(ctx, tree, field, at, value.size, nil, shown)
    if not value.cut then return shown end
    if item then item:append_text("…") end
    return shown .. "…"
  end

  local function array_value(ctx, tree, schema, value)
    local field = value.field
    local looked = wanted(ctx, Fields.of(schema, field).field)
      or wanted(ctx, Fields.of(schema, field).name or Fields.array)
      or wanted(ctx, Fields.array)
    local item = looked and tree:add(Fields.array, range(ctx, value.at, value.size))
    local texts = {}
    for number = 1, looked and field.count or math.min(field.count, 8) do
      if number > MAX_ARRAY or not room(ctx, tree) then break end
      local label = string.format("%s[%d]", field.name, number - 1)
      local at = value.at + (number - 1) * field.width
      local shown = element(ctx, item or tree, schema, field, at, field.width, label)
      if number <= 8 then texts[number] = shown end
    end
    local shown = "[" .. table.concat(texts, ",") .. (field.count > 8 and ",…]" or "]")
    if item then
      if field.count > MAX_ARRAY then item:add_proto_expert_info(Experts.LIMIT) end
      item:set_text(field.line .. ": " .. shown .. described(field))
    end
    return shown
  end

  -- The value of a field as text for the line; nil where no more is shown.
  local function field_value(ctx, tree, schema, value)
    local field = value.field
    if not room(ctx, tree) then return nil end
    if field.rule.tail then return tail_value(ctx, tree, schema, value) end
    if field.count > 1 then return array_value(ctx, tree, schema, value) end
    local shown, number, item = element(ctx, tree, schema, field, value.at, field.width, field.name)
    if item and ctx.visible then item:append_text(described(field)) end
    common(ctx, tree, field, value.at, field.width, number, shown)
    return shown
  end

  -- Bytes of a record that no field covers.
  local function gaps(ctx, tree, frame, record)
    if not (wanted(ctx, Fields.undescribed) or wanted(ctx, Fields.padding)) then return end
    local spans = { { frame.at, frame.at + Tables.fields_at } }
    for _, value in ipairs(record.values) do
      if value.ref then spans[#spans + 1] = { value.ref, value.ref + 4 } end
      if value.size > 0 then spans[#spans + 1] = { value.at, value.at + value.size } end
    end
    table.sort(spans, function(a, b) return a[1] < b[1] end)
    spans[#spans + 1] = { frame.payload_stop, frame.payload_stop }
    local reached = frame.at
    for _, span in ipairs(spans) do
      if span[1] > reached then
        local bytes = ctx.s:sub(reached + 1, span[1])
        local field = bytes:find("[^\0]") and Fields.undescribed or Fields.padding
        tree:add(field, range(ctx, reached, span[1] - reached))
      end
      reached = math.max(reached, span[2])
    end
  end

  -- What the line shows at its end: whose event it is.
  local CONTEXT = { cpu = true, pid = true, tid = true, comm = true }

  local function event(ctx, tree, frame)
    local schema, record = frame.schema, frame.record
    local id = range(ctx, frame.at + 4, 4)
    if wanted(ctx, Fields.probe) then
      tree:add(Fields.probe, id, Text.safe(schema.probe)):set_generated()
    end
    if wanted(ctx, Fields.name) then tree:add(Fields.name, id, Text.safe(schema.name)):set_generated() end
    if frame.schema_packet and wanted(ctx, Fields.schema_frame) then
      tree:add(Fields.schema_frame, frame.schema_packet):set_generated()
    end
    if not record then return payload(ctx, tree, frame) end
    local time = range(ctx, frame.at + Tables.timestamp_at, 8)
    if wanted(ctx, Fields.timestamp) then
      local item = (schema.little and tree.add_le or tree.add)(tree, Fields.timestamp, time)
      item:append_text(schema.clock and " ns of " .. Text.line(schema.clock.name) or " ns of an unknown clock")
    end
    if wanted(ctx, Fields.time) then
      local seconds, rest = Schema.wall(schema, record.timestamp)
      if seconds >= 0 and seconds < 9223372036 then
        tree:add(Fields.time, time, NSTime(seconds, rest)):set_generated()
      end
    end
    local context, parts = {}, {}
    for _, value in ipairs(record.values) do
      local shown = field_value(ctx, tree, schema, value)
      if shown and CONTEXT[value.field.name] then
        context[value.field.name] = shown
      elseif shown and #parts < 12 then
        parts[#parts + 1] = value.field.line .. "=" .. Text.cut(shown, 60)
      end
    end
    gaps(ctx, tree, frame, record)
    table.insert(parts, 1, Text.line(schema.name))
    local who = (context.comm or "") .. (context.pid and "[" .. context.pid .. "]" or "")
    if who ~= "" then parts[#parts + 1] = who end
    if context.cpu then parts[#parts + 1] = "cpu " .. context.cpu end
    return table.concat(parts, " ")
  end

  -- ---- the other payloads

  local function lost(ctx, tree, frame)
    local base, loss = frame.at + HEADER, frame.lost
    local probe = frame.schema and Text.line(frame.schema.probe)
      or (frame.header.id == 0 and "an unknown probe" or string.format("probe %d", frame.header.id))
    local cause = Tables.causes[loss.cause]
    local why = cause and cause.text or string.format("cause %d, not known to this version", loss.cause)
    if frame.schema then
      tree:add(Fields.probe, range(ctx, frame.at + 4, 4), Text.safe(frame.schema.probe)):set_generated()
    end
    tree:add(Fields.lost.first, range(ctx, base, 8))
    tree:add(Fields.lost.last, range(ctx, base + 8, 8))
    local item = tree:add(Fields.lost.count, range(ctx, base + 16, 8))
    local cpu = tree:add(Fields.lost.cpu, range(ctx, base + 24, 2))
    local where = string.format(" on CPU %d", loss.cpu)
    if loss.cpu == Tables.cpu_unknown then
      cpu:append_text(" (unknown)")
      where = ""
    end
    tree:add(Fields.lost.cause, range(ctx, base + 26, 1)):append_text(": " .. why)
    tree:add(Fields.lost.zero, range(ctx, base + 27, 5))
    local text = Numbers.decimal(loss.count) .. " events of " .. probe .. where .. ": " .. why
    item:add_proto_expert_info(Experts.LOST, text)
    return text
  end

  local function ack(ctx, tree, frame)
    local base = frame.at + HEADER
    tree:add(Fields.window, range(ctx, base, 4))
    for _, one in ipairs(frame.ack.ranges) do
      if not room(ctx, tree) then break end
      tree:add(Fields.range_first, range(ctx, one.at, 4))
      tree:add(Fields.range_last, range(ctx, one.at + 4, 4))
    end
    local more = #frame.ack.ranges > 0 and string.format(", %d ranges", #frame.ack.ranges) or ""
    return string.format("next %d, window %d%s", frame.header.id, frame.ack.window, more)
  end

  local function schema_frame(ctx, tree, frame)
    control(ctx, tree, frame)
    local schema = frame.schema
    if frame.more then return string.format("probe %d, goes on in the next SCHEMA", frame.header.id) end
    if not schema then return string.format("probe %d", frame.header.id) end
    tree:add(Fields.probe, range(ctx, frame.at + 4, 4), Text.safe(schema.probe)):set_generated()
    return string.format("probe %d, %s: %d fields", frame.header.id, Text.line(schema.probe), #schema.fields)
  end

  local function map_frame(ctx, tree, frame)
    control(ctx, tree, frame)
    if frame.session then
      tree:add(Fields.session, frame.session):set_generated()
    end
    local parts = {}
    for number, value in ipairs(frame.map.items) do
      if value.kind ~= "map" and value.kind ~= "list" and value.kind ~= "bytes" and #parts < 6 then
        parts[#parts + 1] = Cbor.shown(frame.map.keys[number]) .. "=" .. Text.cut(Cbor.shown(value), 40)
      end
    end
    return table.concat(parts, " ")
  end

  local function error_frame(ctx, tree, frame)
    local text = map_frame(ctx, tree, frame)
    local map = {}
    for number, key in ipairs(frame.map.keys) do map[Cbor.identity(key)] = frame.map.items[number] end
    local code = map.tcode and map.tcode.kind == "int" and map.tcode.value and Numbers.plain(map.tcode.value)
    for name, known in pairs(Tables.codes) do
      if known.number == code then text = name .. ": " .. known.text .. " " .. text end
    end
    tree:add_proto_expert_info(Experts.PEER, text)
    return text
  end

  local BY_TYPE = { LOST = lost, ACK = ack, SCHEMA = schema_frame, ERROR = error_frame }

  -- Show one frame that was read into `frame`; frames inside of a DATA frame are shown by `inner`.
  function Show.frame(ctx, parent, frame, inner)
    local size = frame.stop - frame.at
    local name = frame.rule and frame.rule.name
    local tree = parent:add(kwire, range(ctx, frame.at, size))
    if not frame.header then
      tree:add(Fields.broken, range(ctx, frame.at, size))
    else
      header(ctx, tree, frame)
      name = name or (Tables.types[frame.header.type] and Tables.types[frame.header.type].name) or "RESERVED"
      if not frame.whole and size > HEADER then
        tree:add(Fields.broken, range(ctx, frame.at + HEADER, size - HEADER))
      end
    end
    local text = ""
    if frame.whole and frame.unreadable then
      payload(ctx, tree, frame)
    elseif frame.whole then
      if name == "DATA" then
        local count = inner(tree)
        tree:add(Fields.frames, count):set_generated()
        if frame.again then tree:add_proto_expert_info(Experts.AGAIN) end
        text = string.format("sequence %d, %d frames", frame.header.id, count)
      elseif name == "EVENT" and frame.schema then
        text = event(ctx, tree, frame) or "unreadable record"
      elseif frame.map or frame.lost or frame.ack then
        text = (BY_TYPE[name] or map_frame)(ctx, tree, frame)
      else
        payload(ctx, tree, frame)
      end
    end
    if frame.whole then trailer(ctx, tree, frame) end
    for _, problem in ipairs(frame.problems) do complain(tree, problem) end
    if #frame.problems > 0 then
      local codes = {}
      for number, problem in ipairs(frame.problems) do codes[number] = problem.code end
      text = "[" .. table.concat(codes, ", ") .. "] " .. text
    end
    tree:set_text("kwire " .. (name or "bytes") .. (text ~= "" and ", " .. Text.cut(text, 200) or ""))
    local line = name == "EVENT" and frame.record and text or (name or "bytes") .. " " .. text
    ctx.info[#ctx.info + 1] = Text.cut(line, MAX_INFO)
  end
end
