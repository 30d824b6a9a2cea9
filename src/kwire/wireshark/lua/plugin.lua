-- The dissector: frames on link type USER0, one a packet, and on the UDP and TCP port.

do
  local HEADER = Tables.header_size
  local TCP, UDP = 2, 3 -- of pinfo.port_type
  local sound, section_number = pcall(Field.new, "frame.section_number")
  if not sound then section_number = nil end

  local function unreadable(frame, problem)
    if type(problem) ~= "table" then error(problem, 0) end
    frame.unreadable = true
    table.insert(frame.problems, problem)
  end

  -- The session that frames at this place belong to: of its token once HELLO or WELCOME told it.
  local function session_key(ctx, at)
    return State.find("session " .. ctx.stream, ctx.packet, at) or ctx.stream
  end

  local function schema_key(ctx, at, id)
    return "schema " .. session_key(ctx, at) .. " " .. string.format("%d", id)
  end

  -- A SCHEMA counts where it is sound, stands alone in its packet as it should, and comes the first time.
  local function take_schema(ctx, frame)
    local base = frame.at + HEADER
    if ctx.first and not ctx.again and #frame.problems == 0 and not ctx.excess then
      local session = State.session(session_key(ctx, frame.at))
      local sound, schema = pcall(Schema.add, session, frame.header.id, frame.map, base, frame.payload)
      local told = { problem = not sound and schema or nil, schema = sound and schema or nil }
      told.more = sound and not schema
      if not sound and type(schema) ~= "table" then error(schema, 0) end
      State.put("told " .. ctx.stream, ctx.packet, frame.at, told)
      if told.schema then told.schema.named = session.named end
      if told.schema then State.put(schema_key(ctx, frame.at, frame.header.id), ctx.packet, frame.at, schema) end
    end
    local told, packet, offset = State.find("told " .. ctx.stream, ctx.packet, frame.at)
    if packet ~= ctx.packet or offset ~= frame.at then return end
    frame.schema, frame.more = told.schema, told.more
    if told.problem then table.insert(frame.problems, told.problem) end
  end

  -- A sound TABLE of stacks names single addresses in the kernel.
  local function take_table(ctx, frame)
    if ctx.first and not ctx.again and #frame.problems == 0 and frame.schema and frame.schema.tells then
      Schema.learn(State.session(session_key(ctx, frame.at)).named, frame.map)
    end
  end

  local function take_token(ctx, frame)
    for number, key in ipairs(frame.map.keys) do
      local item = frame.map.items[number]
      if key.kind == "text" and key.value == "token" and item.kind == "bytes" and #item.value > 0 then
        frame.session = Text.hex(item.value)
        if ctx.first then State.put("session " .. ctx.stream, ctx.packet, frame.at, frame.session) end
      end
    end
  end

  local PARSE = { LOST = Frame.lost, ACK = Frame.ack }
  local SLOT = { LOST = "lost", ACK = "ack" }

  local function find_schema(ctx, frame)
    local schema, packet = State.find(schema_key(ctx, frame.at, frame.header.id), ctx.packet, frame.at)
    if packet and ctx.section and packet <= State.before_section(ctx.section) then return end
    frame.schema, frame.schema_packet = schema, packet
  end

  -- Read what the payload says into `frame`; what its reader refuses becomes a problem.
  local function read_payload(ctx, frame)
    local name, s = frame.rule and frame.rule.name, ctx.s
    if not name or frame.rule.empty or name == "DATA" then return end
    if name == "EVENT" then
      find_schema(ctx, frame)
      if not frame.schema then
        local id = string.format("an EVENT of probe %d", frame.header.id)
        local problem = { code = "UNKNOWN_SCHEMA", offset = frame.at + 4, found = id, expected = "its SCHEMA before it" }
        table.insert(frame.problems, problem)
        return
      end
      local sound, record = pcall(Frame.record, s, frame, frame.schema)
      if sound then frame.record = record else unreadable(frame, record) end
      return
    end
    local sound, value = pcall(PARSE[name] or Frame.map, s, frame)
    if not sound then return unreadable(frame, value) end
    frame[SLOT[name] or "map"] = value
    if name == "LOST" then find_schema(ctx, frame) end
    if name == "SCHEMA" then take_schema(ctx, frame) end
    if name == "TABLE" then
      find_schema(ctx, frame)
      take_table(ctx, frame)
    end
    if name == "HELLO" or name == "WELCOME" then take_token(ctx, frame) end
  end

  local frames

  -- Read and show one frame; false where the next one cannot be found.
  local function one_frame(ctx, tree, at, stop, depth)
    local frame = Frame.read(ctx.s, at, stop)
    if frame.whole then read_payload(ctx, frame) end
    local is_data = frame.whole and frame.rule and frame.rule.name == "DATA"
    if is_data and depth == Tables.max_nesting then
      local problem = Cbor.bad(at + HEADER, "one more level of DATA", "at most " .. Tables.max_nesting)
      unreadable(frame, problem)
    end
    local lines = ctx.info
    if is_data and not frame.unreadable then
      ctx.info = {}
      if depth == 0 and ctx.stream:sub(1, 4) ~= "user" then
        local session = State.session(session_key(ctx, at))
        if ctx.first then
          frame.again = session.seen[frame.header.id] ~= nil
          session.seen[frame.header.id] = session.seen[frame.header.id] or ctx.packet
        else
          frame.again = session.seen[frame.header.id] ~= ctx.packet
        end
        ctx.again = frame.again
      end
    end
    Show.frame(ctx, tree, frame, function(inside)
      return frames(ctx, inside, at + HEADER, frame.payload_stop, depth + 1)
    end)
    if ctx.info ~= lines then
      local inner = ctx.info
      local text = table.remove(inner)
      for number = 1, math.min(3, #inner) do text = text .. " | " .. inner[number] end
      if #inner > 3 then text = text .. " | …" end
      ctx.info = lines
      lines[#lines + 1] = text
      ctx.again = false
    end
    return frame
  end

  -- Show the frames back to back in [at, stop); how many there are.
  function frames(ctx, tree, at, stop, depth)
    local count = 0
    while at < stop do
      local frame = one_frame(ctx, tree, at, stop, depth)
      count = count + 1
      at = frame.stop
      if not frame.whole then break end
    end
    return count
  end

  local function context(tvb, pinfo, tree, stream)
    return {
      top = tree, visible = tree.visible, -- who looks at what
      tvb = tvb, s = tvb:raw(), pinfo = pinfo, packet = pinfo.number, first = not pinfo.visited,
      stream = stream, info = {}, items = 0, again = false, excess = false,
    }
  end

  local function columns(ctx)
    local pinfo = ctx.pinfo
    pinfo.cols.protocol = "KWIRE"
    local before = pinfo.private.kwire_info
    local text = table.concat(ctx.info, " | ", 1, math.min(#ctx.info, 8))
    if #ctx.info > 8 then text = text .. string.format(" | … %d frames", #ctx.info) end
    if before and before ~= "" then text = before .. " | " .. text end
    pinfo.private.kwire_info = text
    pinfo.cols.info = text
  end

  -- A packet of a capture: one frame.
  local function raw_packet(tvb, pinfo, tree)
    local section = section_number and section_number()
    local ctx = context(tvb, pinfo, tree, "user")
    if section then
      ctx.section = section.value
      State.in_section(ctx.section, ctx.packet)
    end
    local size = tvb:len()
    local header = Frame.read(ctx.s, 0, size)
    ctx.excess = header.whole and header.stop < size
    local frame = one_frame(ctx, tree, 0, size, 0)
    if ctx.excess then
      local item = tree:add(Fields.broken, tvb:range(frame.stop, size - frame.stop))
      item:add_proto_expert_info(Experts.AFTER, string.format("%d bytes after the frame", size - frame.stop))
      ctx.info[1] = ctx.info[1] .. string.format(" [%d bytes after the frame]", size - frame.stop)
    end
    columns(ctx)
    return size
  end

  -- Both directions of what these addresses and ports say to each other.
  local function stream_key(kind, pinfo)
    local from = tostring(pinfo.src) .. " " .. pinfo.src_port
    local to = tostring(pinfo.dst) .. " " .. pinfo.dst_port
    return kind .. " " .. (from < to and from .. " " .. to or to .. " " .. from)
  end

  local function datagram(tvb, pinfo, tree)
    local ctx = context(tvb, pinfo, tree, stream_key("udp", pinfo))
    frames(ctx, tree, 0, tvb:len(), 0)
    columns(ctx)
    return tvb:len()
  end

  -- Frames of a byte stream, which ends in the middle of one most of the time.
  local function segment(tvb, pinfo, tree)
    local ctx = context(tvb, pinfo, tree, stream_key("tcp", pinfo))
    local size, at = tvb:len(), 0
    local whole_packet = tvb:len() == tvb:reported_len()
    while at < size do
      local frame = Frame.read(ctx.s, at, size)
      local wait = nil
      if not frame.header then
        wait = DESEGMENT_ONE_MORE_SEGMENT
      elseif not frame.whole and frame.header.length >= HEADER and frame.header.version == Tables.version then
        wait = frame.header.length - (size - at)
      end
      if wait and whole_packet and pinfo.can_desegment > 0 then
        pinfo.desegment_offset, pinfo.desegment_len = at, wait
        break
      end
      frame = one_frame(ctx, tree, at, size, 0)
      at = frame.stop
      if not frame.whole then break end
    end
    if #ctx.info > 0 then columns(ctx) end
    return size
  end

  -- A stream that begins with a TLS record is TLS: a session begins with HELLO.
  local tls_streams = {}
  local TLS = "^[\20-\23]\3[\0-\4]"

  local function is_tls(tvb, pinfo)
    local key = stream_key("tcp", pinfo)
    if tls_streams[key] == nil and not pinfo.visited and tvb:len() >= 3 then
      tls_streams[key] = tvb:raw(0, 3):find(TLS) ~= nil
    end
    return tls_streams[key]
  end

  function kwire.init()
    State.reset()
    tls_streams = {}
  end

  function kwire.dissector(tvb, pinfo, tree)
    if tvb:len() == 0 then return 0 end
    if pinfo.port_type == TCP then
      local tls = is_tls(tvb, pinfo) and Dissector.get("tls")
      if tls then return tls:call(tvb, pinfo, tree) end
      return segment(tvb, pinfo, tree)
    end
    if pinfo.port_type == UDP then return datagram(tvb, pinfo, tree) end
    return raw_packet(tvb, pinfo, tree)
  end

  DissectorTable.get("wtap_encap"):add((wtap_encaps or wtap).USER0, kwire)
  DissectorTable.get("udp.port"):add(Tables.port, kwire)
  DissectorTable.get("tcp.port"):add(Tables.port, kwire)
end
