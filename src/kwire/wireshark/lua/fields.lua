-- The protocol, its filter names and its complaints. Wireshark fixes them when it starts, so the fields of
-- probes come from a table beside this file, which `kwire wireshark update CAPTURE` keeps.

local kwire = Proto("kwire", "Kernel events on the wire")

local Fields = { probes = {}, count = 0 }
local Experts = {}

do
  local all = {}

  local function add(field)
    all[#all + 1] = field
    return field
  end

  local types, causes, codes = {}, {}, {}
  for number, rule in pairs(Tables.types) do types[number] = rule.name end
  for number, cause in pairs(Tables.causes) do causes[number] = cause.name end
  for name, code in pairs(Tables.codes) do codes[code.number] = name end

  local CHECKSUM = { [0] = "Bad", [1] = "Good" }
  local UTC, DEC, HEX = base.UTC, base.DEC, base.HEX

  Fields.version = add(ProtoField.uint8("kwire.version", "Version", DEC, nil, 0xF0))
  Fields.type = add(ProtoField.uint8("kwire.type", "Type", DEC, types, 0x0F))
  Fields.flags = add(ProtoField.uint8("kwire.flags", "Flags", HEX))
  Fields.flags_checksum = add(ProtoField.bool("kwire.flags.checksum", "CHECKSUM", 8, nil, 0x01))
  Fields.flags_padded = add(ProtoField.bool("kwire.flags.padded", "PADDED", 8, nil, 0x02))
  Fields.flags_reserved = add(ProtoField.uint8("kwire.flags.reserved", "reserved", HEX, nil, 0xFC))
  Fields.length = add(ProtoField.uint16("kwire.length", "Length", DEC))
  Fields.id = add(ProtoField.uint32("kwire.id", "Id", DEC))
  Fields.payload = add(ProtoField.bytes("kwire.payload", "Payload"))
  Fields.padding = add(ProtoField.bytes("kwire.padding", "Padding"))
  Fields.checksum = add(ProtoField.uint16("kwire.checksum", "Checksum", HEX))
  Fields.checksum_status = add(ProtoField.uint8("kwire.checksum.status", "Checksum status", DEC, CHECKSUM))
  Fields.broken = add(ProtoField.bytes("kwire.broken", "Bytes that are no frame"))
  Fields.error = add(ProtoField.string("kwire.error", "Error"))
  Fields.error_code = add(ProtoField.uint8("kwire.error.code", "Error code", DEC, codes))

  Fields.probe = add(ProtoField.string("kwire.probe", "Probe"))
  Fields.name = add(ProtoField.string("kwire.name", "Name"))
  Fields.schema_frame = add(ProtoField.framenum("kwire.schema_frame", "SCHEMA in frame", base.NONE))
  Fields.timestamp = add(ProtoField.uint64("kwire.timestamp", "Timestamp", DEC))
  Fields.time = add(ProtoField.absolute_time("kwire.time", "Wall time", UTC))
  Fields.reference = add(ProtoField.bytes("kwire.reference", "Reference"))
  Fields.cut = add(ProtoField.bool("kwire.cut", "Cut at its limit"))
  Fields.undescribed = add(ProtoField.bytes("kwire.undescribed", "Not described"))

  Fields.lost = {
    first = add(ProtoField.uint64("kwire.lost.first", "First lost, ns", DEC)),
    last = add(ProtoField.uint64("kwire.lost.last", "Last lost, ns", DEC)),
    count = add(ProtoField.uint64("kwire.lost.count", "Events lost", DEC)),
    cpu = add(ProtoField.uint16("kwire.lost.cpu", "CPU", DEC)),
    cause = add(ProtoField.uint8("kwire.lost.cause", "Cause", DEC, causes)),
    zero = add(ProtoField.bytes("kwire.lost.zero", "Reserved")),
  }
  Fields.window = add(ProtoField.uint32("kwire.ack.window", "Window, bytes", DEC))
  Fields.range_first = add(ProtoField.uint32("kwire.ack.first", "First received", DEC))
  Fields.range_last = add(ProtoField.uint32("kwire.ack.last", "Last received", DEC))
  Fields.frames = add(ProtoField.uint32("kwire.data.frames", "Frames", DEC))
  Fields.session = add(ProtoField.string("kwire.session", "Session"))
  Fields.entry = add(ProtoField.string("kwire.entry", "Entry"))
  Fields.key = add(ProtoField.string("kwire.key", "Key"))
  Fields.array = add(ProtoField.bytes("kwire.array", "Array"))

  -- What every event has, whatever its probe, under one name.
  Fields.common = {
    cpu = add(ProtoField.uint64("kwire.cpu", "CPU", DEC)),
    pid = add(ProtoField.uint64("kwire.pid", "Process", DEC)),
    tid = add(ProtoField.uint64("kwire.tid", "Thread", DEC)),
    comm = add(ProtoField.string("kwire.comm", "Command")),
  }

  local MAKE = {
    uint = function(abbr, name, width) return ProtoField["uint" .. width * 8](abbr, name, DEC) end,
    int = function(abbr, name, width) return ProtoField["int" .. width * 8](abbr, name, DEC) end,
    address = function(abbr, name) return ProtoField.uint64(abbr, name, HEX) end,
    bool = function(abbr, name) return ProtoField.bool(abbr, name) end,
    ipv4 = function(abbr, name) return ProtoField.ipv4(abbr, name) end,
    ipv6 = function(abbr, name) return ProtoField.ipv6(abbr, name) end,
    ether = function(abbr, name) return ProtoField.ether(abbr, name) end,
    string = function(abbr, name) return ProtoField.string(abbr, name) end,
    bytes = function(abbr, name) return ProtoField.bytes(abbr, name) end,
  }

  -- For fields of probes that are not in the table: one a class.
  Fields.any = {}
  for class, make in pairs(MAKE) do
    Fields.any[class] = { field = add(make("kwire.any." .. class, "Field", 8)) }
  end
  Fields.any_name = add(ProtoField.string("kwire.any.name", "Name"))

  local function decoded(text)
    return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
  end

  -- One line of the table: probe, field, class, width in bytes, filter name, whether values have names.
  local function read_line(line, made)
    local cells = {}
    for cell in (line .. "\t"):gmatch("([^\t]*)\t") do cells[#cells + 1] = cell end
    local probe, name, class, width, abbr, named = decoded(cells[1] or ""), decoded(cells[2] or ""), cells[3],
      tonumber(cells[4]), cells[5], cells[6]
    if not (named and MAKE[class] and abbr:match("^kwire%.[%w_]+%.[%w_]+$")) then return end
    if width ~= 1 and width ~= 2 and width ~= 4 and width ~= 8 then return end
    if not made[abbr] then
      made[abbr] = { field = add(MAKE[class](abbr, Text.line(name), width)), class = class }
      Fields.count = Fields.count + 1
    end
    if made[abbr].class ~= class then return end
    if named == "1" and not made[abbr].name then
      made[abbr].name = add(ProtoField.string(abbr .. ".name", Text.line(name) .. ", name"))
    end
    local key = probe .. "\n" .. name .. "\n" .. class
    Fields.probes[key] = made[abbr]
  end

  local function read_table()
    local folder = __DIR__ or (debug.getinfo(1, "S").source:match("^@(.*[/\\])")) or ""
    if folder ~= "" and not folder:match("[/\\]$") then folder = folder .. "/" end
    local file = io.open(folder .. Tables.probes_file, "r")
    if not file then return end
    local made = {}
    for line in file:lines() do
      if line:sub(1, 1) ~= "#" then read_line(line, made) end
    end
    file:close()
  end

  read_table()

  -- What can be found for a field of a probe: {field = , name = }.
  function Fields.of(schema, field)
    local found = field.filter
    if not found then
      local class = field.rule.class
      found = Fields.probes[schema.base .. "\n" .. field.name .. "\n" .. class]
      if not found then
        found = { field = Fields.any[class].field, name = Fields.any_name, unknown = true }
      end
      field.filter = found
    end
    return found
  end

  local experts = {}
  local function complain(name, abbr, text, group, severity)
    Experts[name] = ProtoExpert.new(abbr, text, group, severity)
    experts[#experts + 1] = Experts[name]
  end

  local group, severity = expert.group, expert.severity
  for name, code in pairs(Tables.codes) do
    local text = name .. ": " .. code.text
    local abbr = "kwire.error." .. name:lower()
    if name == "UNKNOWN_SCHEMA" then
      complain(name, abbr, text, group.UNDECODED, severity.WARN)
    else
      complain(name, abbr, text, group.MALFORMED, severity.ERROR)
    end
  end
  complain("LOST", "kwire.lost.events", "Events are lost here", group.SEQUENCE, severity.WARN)
  complain("AFTER", "kwire.after", "Bytes after the frame", group.MALFORMED, severity.ERROR)
  complain("AGAIN", "kwire.again", "DATA seen before", group.SEQUENCE, severity.NOTE)
  complain("PEER", "kwire.complaint", "The peer complains", group.RESPONSE_CODE, severity.WARN)
  complain("LIMIT", "kwire.limit", "More than is shown", group.UNDECODED, severity.NOTE)

  kwire.fields = all
  kwire.experts = experts
end
