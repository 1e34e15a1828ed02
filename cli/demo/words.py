"""The hand-made lists the demonstration's people, firms and words come from; all of it is invented."""

# ruff: noqa: SIM905 (hundreds of quotes and commas would hide the names)

FIRST_NAMES = (
    "Ada Adrian Aisha Alba Alma Amara Amir Anouk Anton Arjun Astrid Aurelio Beatriz Bela Bruno Camille Carmen Cem "
    "Chidi Clara Cosima Dalia Daniel Darius Diego Dina Edda Elif Elena Emil Enzo Esra Ewa Farah Felix Fiona Florin "
    "Freya Gideon Greta Hana Hanno Hugo Ida Ilse Imani Ines Ivo Jasper Jelena Jonas Juno Kaito Kamala Karim Katya Keiko "
    "Kofi Lale Lars Leandro Leila Linnea Livia Lorenz Luca Maeve Malik Mara Marek Marisol Mateo Mei Milan Mina Nadia "
    "Nils Noor Nora Odile Olga Omar Oskar Paloma Pavel Petra Priya Quentin Rafael Rania Rasmus Renata Rosa Ruben Sana "
    "Selma Simon Sofia Soren Stella Tamar Tariq Tessa Theo Tilda Tomas Uma Valeria Vera Viktor Wanda Xenia Yara Yusuf "
    "Zeno Zofia"
).split()

LAST_NAMES = (
    "Abara Acker Adeyemi Albers Alvarado Amsel Anders Arkwell Asante Bachmeier Balogun Barlow Basri Becker Bellamy "
    "Bergstrom Bianchi Blom Borges Brandt Caldera Carver Castell Chandra Chen Cordova Costa Dahl Darwish Delgado "
    "Demir Dietz Dorn Drake Duarte Eberhart Eklund Engel Espinoza Falk Farrow Ferrand Fink Flores Forsberg Friedl "
    "Galli Garmond Gerhard Gruber Gupta Haddad Hallberg Hartwig Hashimoto Haugen Heller Herrera Holm Horvat Ibarra "
    "Ito Jansen Jensen Kaplan Karlsen Keller Khalil Kimura Klein Kovac Kruger Kurz Laforge Lang Larkin Lehner Lindqvist "
    "Lombardi Lopes Lund Madsen Marchetti Marlow Mbeki Medina Mendel Meyer Moreau Moretti Nakata Navarro Neumann "
    "Nordin Novak Nyberg Obi Okafor Oliveira Osei Palmgren Park Pereira Petrov Pohl Quist Rahman Ramires Reinholt "
    "Ricci Rojas Roth Saito Salcedo Sand Santoro Schuster Seidel Serrano Shah Sharma Silva Solberg Sommer Stahl "
    "Steiner Strand Sultan Suzuki Takeda Tanner Thorne Torres Ulrich Vance Varga Vasquez Vidal Vogel Wagner Weiss "
    "Wendt Winter Wolff Yamane Yilmaz Zander Ziegler"
).split()

FIRM_NAMES = (
    "Aldermoor Amberwick Ashgrave Birchholt Blackfen Bramblecote Brightwater Brockhaven Cinderhill Clearbourne "
    "Coldharrow Copperfen Cragwell Dovemere Drumlow Duskwood Eastmarsh Elderfold Emberlea Fallowdene Fennimoor "
    "Fernhollow Flintbeck Foxglen Garnethall Glimmerford Goldenreach Greyling Halvermoor Harrowgate Hawksedge "
    "Hazelmere Heronsgate Hollowbrook Ironvale Ivyholt Jasperfield Juniperdell Kestrelmoor Kingsfallow Lanternquay "
    "Larchmont Lindenau Longmarrow Lowenstrand Maplecroft Marrowby Meadowlark Millstrand Mistral Moorgarten Nettlecombe "
    "Nightjar Northmere Oakhurst Oldenmark Orchardine Osterholt Otterbourne Palewater Pebblecroft Pinehallow Quarrel "
    "Quillfeather Ravenscar Redthorn Rookwood Rowanfield Saltmarsh Sandwell Silverbeck Skylark Sorrelton Starling "
    "Stonegarth Sunderfell Swiftwater Tallowmere Tamarack Thistledown Thornbury Tidewrack Umberley Velderhof Wavering "
    "Westerholm Whitlow Wildebrook Willowbank Windermark Wolfsgarten Wrenfield Yarrowdale Yewbarrow Zephyrine"
).split()

INDUSTRIES = {
    "Food production": ("Foods", "Dairy", "Mills", "Bakeries"),
    "Logistics": ("Logistics", "Freight", "Cold Chain"),
    "Pharmaceuticals": ("Pharma", "Laboratories"),
    "Energy": ("Energy", "Power", "Renewables"),
    "Construction": ("Construction", "Timber", "Concrete"),
    "Manufacturing": ("Works", "Castings", "Tooling", "Plastics"),
    "Agriculture": ("Growers", "Orchards", "Farms"),
    "Water": ("Water", "Utilities"),
    "Health care": ("Clinics", "Care"),
    "Education": ("Institute", "Academy"),
    "Retail": ("Markets", "Stores"),
    "Hospitality": ("Hotels", "Kitchens"),
}

JOB_TITLES = (
    "Plant manager", "Head of quality", "Quality engineer", "Maintenance lead", "Operations manager",
    "Procurement manager", "Buyer", "Production planner", "Laboratory manager", "Finance director", "Controller",
    "Energy manager", "Facility manager", "IT manager", "Automation engineer", "Managing director", "Safety officer",
    "Warehouse manager", "Head of operations", "Project engineer",
)  # fmt: skip

PRODUCTS = (
    "Cold-chain sensors", "Humidity monitoring", "Calibration service", "Flow meters", "Pressure loggers",
    "Gateway rollout", "Annual maintenance", "Laboratory kit", "Leak detection", "Energy metering", "Site survey",
    "Tank level monitoring", "Data subscription", "Vibration monitoring",
)  # fmt: skip

SCOPES = ("pilot", "first site", "second site", "phase 2", "expansion", "renewal", "replacement", "framework order")

COMPETITORS = ("none", "in-house build", "incumbent supplier", "low-cost import")
LOST_REASONS = ("price", "timing", "no decision", "competitor", "missing feature")
SEGMENTS = ("small", "mid-size", "enterprise")
LANGUAGES = ("English", "German", "French", "Spanish", "Dutch")
CONTACT_TAGS = ("decision-maker", "technical", "billing", "champion", "newsletter", "trade-fair", "user-group")
COMPANY_TAGS = ("multi-site", "key-account", "partner", "price-sensitive", "reference")

SUBJECTS = {
    "call": (
        "Intro call with {name}", "Call: {product}", "Called {name} about delivery dates", "Check-in with {name}",
        "Call about the invoice", "Missed each other, left a message", "Call: open questions on {product}",
    ),
    "email": (
        "Sent the data sheet for {product}", "Re: {product}", "Answered questions on calibration",
        "Sent references from {industry}", "Shared the installation guide", "Re: delivery to the second site",
    ),
    "meeting": (
        "Site visit with {name}", "Demo of {product}", "Review with {name}", "Meeting: requirements",
        "Workshop on {product}", "Quarterly review",
    ),
    "note": (
        "Budget is decided next quarter", "Prefers contact by mail", "New site opens in spring",
        "Uses an older model of {product}", "Asked for a reference in {industry}", "Decides together with procurement",
    ),
    "task": (
        "Send the quote for {product}", "Prepare the site visit", "Follow up with {name}", "Check the delivery date",
        "Send the signed contract", "Arrange a calibration slot", "Ask {name} for feedback",
    ),
}  # fmt: skip

REMARKS = (
    "{name} is interested, wants figures for one site first.",
    "Went well. Next step is a short visit on site.",
    "They compare two suppliers and decide by the end of the quarter.",
    "Wants to see how alarms reach the night shift.",
    "Needs approval from finance above a certain amount.",
    "Asked about the life of the batteries and the price of spare parts.",
    "The present loggers are read by hand every morning; that is the pain.",
    "Satisfied with the last delivery, one sensor had to be replaced.",
    "Will come back after the audit.",
    "No objections on the technical side.",
    "{name} will bring the operations manager to the next meeting.",
    "Agreed to start with a pilot of ten devices.",
    "Not much movement; budget is frozen for now.",
    "Asked for training of two more colleagues.",
)
